"""`trainbeacon up`: two commands to a message, from a checkout and a wheel; nothing is left after `down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from trainbeacon.stack import binaries
from trainbeacon.stack.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PATIENCE = 240.0
REPOSITORY = Path(__file__).resolve().parents[2]
#: A script that trains for a while and then crashes as a process does that touches memory it must not.
CRASHING = """
import os, signal, sys, time
import trainbeacon
with trainbeacon.start(run=sys.argv[1], port=0, host="127.0.0.1", linger_seconds=30) as beacon:
    step = 0
    while step < 20 or not os.path.exists(sys.argv[2]):
        step += 1
        beacon.log(loss=1.0 / step)
        beacon.step()
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGSEGV)
"""


class Phone:
    """A receiver of messages on loopback, as Apprise's `json://` sends them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"json://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def phone() -> Iterator[Phone]:
    receiver = Phone()
    yield receiver
    receiver.close()


class Home:
    """A user's place: state, boxes and the command, all apart from those of this machine's user."""

    def __init__(self, folder: Path, command: list[str], **variables: str) -> None:
        self.folder = folder
        self._command = command
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(binaries.cache_folder().parent),
            "TRAINBEACON_DIRECTORY": str(folder / "boxes"),
            **variables,
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        line = [*self._command, *arguments]
        return subprocess.run(
            line, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE
        )

    def browser(self) -> Path:
        """Have a stand-in for a browser from now on; returns the file to which it writes what it opens."""
        program, opened = self.folder / "browser", self.folder / "opened"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{opened}"\n')
        program.chmod(0o755)
        self.environ["BROWSER"] = str(program)
        return opened

    def train(self, run: str, until: str = "/") -> subprocess.Popen[bytes]:
        """Start the script, which crashes as soon as that path is there: by default after a second."""
        script = self.folder / "train.py"
        script.write_text(CRASHING)
        line = [self._command[0], str(script), run, until]
        return subprocess.Popen(line, env=self.environ, cwd=self.folder, stderr=subprocess.DEVNULL)

    def status(self) -> dict[str, object]:
        """What `status --json` says."""
        found: dict[str, object] = json.loads(self.run("status", "--json").stdout)
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process whose command line leads here, or that has this place in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.folder) in " ".join(process.cmdline()) or (
                    process.environ().get("XDG_STATE_HOME") == self.environ["XDG_STATE_HOME"]
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    if not binaries.find().complete:
        pytest.skip("Prometheus and Alertmanager are not at hand")
    place = Home(
        tmp_path,
        [sys.executable, "-m", "trainbeacon"],
        PYTHONPATH=os.pathsep.join([str(REPOSITORY / "exporter"), os.environ.get("PYTHONPATH", "")]),
    )
    yield place
    place.run("down", "--purge")


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_two_commands_to_a_message_and_nothing_left(home: Home, phone: Phone) -> None:
    """A crash of a script reaches the phone, with the rank; after `down` no process is left."""
    up = home.run("up", "--interval", "1", "--notify", phone.url)
    assert (0, "") == (up.returncode, up.stderr)
    assert phone.url not in up.stdout
    now = home.folder / "now"
    script = home.train("two-commands", str(now))
    wait_for(lambda: "two-commands" in str(home.status()["runs"]), "the run was not found")
    url = home.status()["note"]["urls"]["prometheus"]
    cluster = json.loads(home.run("top", "--once", "--json", "--prometheus", url).stdout)
    (run,) = [each for each in cluster["runs"] if each["run"] == "two-commands"]
    assert ("running", 1) == (run["state"], run["ranks"])
    now.touch()
    assert -11 == script.wait(PATIENCE)
    # On this machine other tests may train at the same time, whose runs are found as well.
    wait_for(lambda: any("two-commands" in str(m) for m in phone.messages), "no message")
    first = next(m["message"] for m in phone.messages if "two-commands" in m["message"])
    assert "A rank of the training is lost." in first
    assert "Run two-commands: rank 0" in first
    assert "Watchdog" not in str(phone.messages)
    status = home.run("status")
    assert 0 == status.returncode
    assert "CRITICAL A rank of the training is lost. run two-commands rank 0" in status.stdout
    seen = home.run("top", "--once")
    assert "A rank of the training is lost. Run two-commands: rank 0" in " ".join(seen.stdout.split())
    down = home.run("down")
    assert (0, "") == (down.returncode, down.stderr)
    wait_for(lambda: home.processes() == [], f"left: {home.processes()}")
    assert 3 == home.run("status").returncode
    assert phone.url not in "".join(
        path.read_text(errors="replace") for path in (home.folder / "state").rglob("*") if path.is_file()
    )


def test_a_second_up_joins_and_brings_its_address(home: Home, phone: Phone) -> None:
    """Whoever asks twice gets the same servers, is said so, and his address is not forgotten."""
    assert 0 == home.run("up", "--interval", "1").returncode
    before = home.status()["note"]
    second = home.run("up", "--notify", phone.url)
    assert 0 == second.returncode
    assert "It is up already" in second.stdout
    assert "Messages go to 1 more address(es) from now on." in second.stdout
    wait_for(lambda: home.status()["note"]["addresses"] == 1, "the address did not arrive")
    after = home.status()["note"]
    assert (before["pid"], before["urls"]) == (after["pid"], after["urls"])
    home.train("joined").wait(PATIENCE)
    wait_for(lambda: any("joined" in str(m) for m in phone.messages), "no message")


def test_a_server_that_dies_is_said_and_started_again(home: Home) -> None:
    """The watcher is watched: its death is an event, and it comes back with its data and its port."""
    assert 0 == home.run("up", "--interval", "1").returncode
    url = home.status()["note"]["urls"]["alertmanager"]
    (child,) = [
        each
        for each in home.processes()
        if f"--web.listen-address={url.rpartition('/')[2]}" in each.cmdline()
    ]
    child.kill()
    wait_for(lambda: "alertmanager has died (signal 9)" in home.run("status").stdout, "not said")
    wait_for(lambda: home.run("status").returncode == 0, "not started again")


def test_what_is_killed_leaves_nothing_and_comes_back(home: Home) -> None:
    """Even SIGKILL of the one that runs leaves no server behind, and the next `up` starts afresh."""
    assert 0 == home.run("up", "--interval", "1").returncode
    psutil.Process(home.status()["note"]["pid"]).kill()
    wait_for(lambda: home.processes() == [], f"left: {home.processes()}")
    assert 3 == home.run("status").returncode
    again = home.run("up", "--interval", "1")
    assert "joined" not in again.stdout
    assert 0 == home.run("status").returncode


def test_in_the_foreground_ctrl_c_ends_all_of_it(home: Home) -> None:
    """Who stays with it ends it as any other program, twice Ctrl-C included."""
    line = [*home._command, "up", "--foreground", "--interval", "1"]
    with subprocess.Popen(
        line, env=home.environ, cwd=home.folder, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: home.status() is not None, "not up")
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE)
    assert (0, "ended") == (process.returncode, said.splitlines()[-1])
    wait_for(lambda: home.processes() == [], f"left: {home.processes()}")


#: What stands in for Grafana's server: it reads its port from the file that it is given, and is well.
GRAFANA = """#!{python}
import configparser, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
options = dict(each.lstrip("-").split("=", 1) for each in sys.argv[1:] if "=" in each)
config = configparser.ConfigParser()
config.read(options["config"])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
HTTPServer((config["server"]["http_addr"], int(config["server"]["http_port"])), Handler).serve_forever()
"""


def test_grafana_is_started_where_it_is_on_the_path(home: Home) -> None:
    """Its server is started, watched and ended as the others are. (A stand-in; Grafana is not at hand.)"""
    program = home.folder / "grafana-12/bin/grafana"
    program.parent.mkdir(parents=True)
    program.write_text(GRAFANA.format(python=sys.executable))
    program.chmod(0o755)
    (program.parent.parent / "conf").mkdir()
    (program.parent.parent / "conf/defaults.ini").touch()
    home.environ["PATH"] = f"{program.parent}:{home.environ['PATH']}"
    opened = home.browser()
    up = home.run("up", "--interval", "1", "--open")
    assert "Grafana       http://127.0.0.1:" in up.stdout
    assert f"{home.status()['note']['urls']['grafana']}\n" == opened.read_text()
    wait_for(lambda: home.status()["ready"]["grafana"], "Grafana does not answer")
    del home.environ["BROWSER"]
    home.environ["PATH"] = str(home.folder / "empty")
    without = home.run("up", "--open")
    assert 0 == without.returncode
    assert "no browser could be started here; the page is http://127.0.0.1:" in without.stderr
    assert 0 == home.run("down").returncode
    wait_for(lambda: home.processes() == [], f"left: {home.processes()}")


def test_taken_ports_are_others(home: Home) -> None:
    """What else listens on the usual ports is left in peace; a port that was asked for is not given up."""
    import socket

    with socket.socket() as usual, socket.socket() as asked:
        for port, taken in ((9090, usual), (0, asked)):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue  # another program has it: as good
            taken.listen()
        refused = home.run("up", "--prometheus-port", str(asked.getsockname()[1]))
        assert 2 == refused.returncode
        assert "which prometheus was to have, is taken" in refused.stderr
        assert [] == home.processes()
        assert 0 == home.run("up", "--interval", "1").returncode
        assert not home.status()["note"]["urls"]["prometheus"].endswith(":9090")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--notify", "nothing://there"], "address 1 (nothing://...): no service of Apprise takes it"),
        (["--keep", "forever"], "must be a number with h, d, w or y: 15d"),
        (["--keep-size", "lots"], "must be a number with MB, GB or TB: 2GB"),
        (["--interval", "0"], "must be between 1 and 300"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    home: Home, arguments: list[str], said: str
) -> None:
    """A mistake costs a sentence, not a search in a log."""
    try:
        done = home.run("up", *arguments)
    finally:
        assert [] == home.processes()
    assert 2 == done.returncode
    assert said in done.stderr


def test_where_nothing_can_be_had_one_sentence_says_where_to_get_it(tmp_path: Path) -> None:
    """Without programs, and without apt, the way is said."""
    place = Home(
        tmp_path,
        [sys.executable, "-m", "trainbeacon"],
        PYTHONPATH=str(REPOSITORY / "exporter"),
        PATH=str(tmp_path / "empty"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    done = place.run("up")
    assert 2 == done.returncode
    assert "this machine has no apt-get" in done.stderr
    assert "https://prometheus.io/download/" in done.stderr


def test_from_a_wheel_in_an_empty_environment(home: Home, phone: Phone, tmp_path: Path) -> None:
    """What pip installs is enough: rules, routes and the bridge to the phone come with it."""
    built, place = tmp_path / "built", tmp_path / "venv"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    venv.create(place, with_pip=True)
    environ = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", f"{wheel}[notify]"]
    done = subprocess.run(pip, env=environ, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install the dependencies here: {done.stderr.strip().splitlines()[-1]}")
    home._command = [str(place / "bin/python"), "-m", "trainbeacon"]
    del home.environ["PYTHONPATH"]
    try:
        up = home.run("up", "--interval", "1", "--notify", phone.url)
        assert (0, "") == (up.returncode, up.stderr)
        home.train("from-a-wheel").wait(PATIENCE)
        wait_for(lambda: any("from-a-wheel" in str(m) for m in phone.messages), "no message")
    finally:
        assert 0 == home.run("down").returncode
    wait_for(lambda: home.processes() == [], f"left: {home.processes()}")


def test_demo_joins_what_is_up(home: Home) -> None:
    """The sample job is watched by what runs already, and its crash is shown as it arrives."""
    pytest.importorskip("torch")
    assert 0 == home.run("up", "--interval", "1").returncode
    port = ["--port", str(free_port())]
    done = home.run("demo", "--ranks", "2", "--minutes", "1", "--fault", "crash", "--fault-at", "3", *port)
    assert 0 == done.returncode, done.stderr
    assert "`trainbeacon up` is running" in done.stdout
    assert home.status()["note"]["urls"]["prometheus"] in done.stdout
    assert "! CRITICAL" in done.stdout
