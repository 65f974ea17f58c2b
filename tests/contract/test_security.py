"""The promise of security: no secret leaves us, and a directory is shared with whom its mode says."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from tests.certificates import Authority, Pair
from tests.serving import PATIENCE, environment, node, scrape, wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.election import exporter_is_there, read_note
from trainbeacon.exporter.http.webconfig import read
from trainbeacon.stack import web
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import read_exposition, series

PASSWORD = "correct-horse-9173"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
WEB_CONFIG = f"""
tls_server_config:
  cert_file: server.pem
  key_file: server.key
  client_ca_file: authority.pem
  client_auth_type: RequireAndVerifyClientCert
basic_auth_users:
  prometheus: {HASH}
"""


@dataclass(frozen=True)
class Keys:
    """A folder with a web config file and what it names, and what a scraper needs to get in."""

    folder: Path
    authority: Authority
    client: Pair
    stranger: Pair

    @property
    def web_config(self) -> str:
        return str(self.folder / "web.yml")

    def get(self, url: str, password: str = PASSWORD) -> tuple[int, str]:
        """Status and text of a page, asked for as Prometheus would."""
        host, _, path = url.removeprefix("https://").partition("/")
        context = self.authority.client_context(self.client)
        connection = http.client.HTTPSConnection(host, timeout=120, context=context)
        credentials = base64.b64encode(f"prometheus:{password}".encode()).decode()
        with contextlib.closing(connection):
            connection.request("GET", f"/{path}", headers={"Authorization": f"Basic {credentials}"})
            response = connection.getresponse()
            return response.status, response.read().decode()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    folder = tmp_path / "keys"
    authority = Authority(folder)
    authority.issue("server", "IP:127.0.0.1")
    (folder / "web.yml").write_text(WEB_CONFIG)
    stranger = Authority(tmp_path / "stranger").issue("prometheus", client=True)
    return Keys(folder, authority, authority.issue("prometheus", client=True), stranger)


def url_of(directory: Path) -> str:
    """Where the exporter of a directory says that it serves; waits for one."""
    descriptor = open_directory(str(directory))
    try:
        wait_for(lambda: exporter_is_there(descriptor) and read_note(descriptor), what="exporter")
        note = wait_for(lambda: read_note(descriptor))
        assert note
        return note.url
    finally:
        os.close(descriptor)


def said_by(process: subprocess.Popen[str]) -> str:
    """All that a process wrote to its standard error; ends it."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)[1]


def test_nothing_secret_is_served_or_logged(keys: Keys, tmp_path: Path) -> None:
    """Neither passwords, hashes, keys nor what a reload found wrong with them come into a page or a log."""
    secrets = {PASSWORD, HASH, "guess-5521", "oops-7713"}
    secrets |= {line for line in (keys.folder / "server.key").read_text().splitlines() if "-" not in line}
    with node(tmp_path / "boxes") as made:
        made.rank(serve="off", script=True)
        agent = made.agent("--web-config", keys.web_config, wait=False)
        url = url_of(made.folder)
        wait_for(lambda: keys.get(url)[0] == 200)
        assert 401 == keys.get(url, password="guess-5521")[0]
        keys_before = keys.get(url)
        (keys.folder / "web.yml").write_text("basic_auth_users: {prometheus: oops-7713}")
        errors = series("trainbeacon_errors_total", run="", rank="", where="server")
        wait_for(lambda: read_exposition(keys.get(url)[1])[errors] == 1.0)
        pages = [keys.get(url.replace("/metrics", path))[1] for path in ("/metrics", "/", "/healthz")]
        files = [
            path.read_bytes().decode(errors="replace") for path in made.folder.rglob("*") if path.is_file()
        ]
        told = [*pages, keys_before[1], *files, said_by(agent)]
    assert "no bcrypt hash" in told[-1]
    assert [] == [secret for secret in secrets for text in told if secret in text]


def test_an_exporter_that_a_rank_started_is_as_safe(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`web_config=`, relative to where the script runs, holds for the process that the rank starts."""
    monkeypatch.chdir(keys.folder)
    sd_file = tmp_path / "sd.json"
    with node(tmp_path / "boxes", web_config="web.yml", sd_file=str(sd_file)) as made:
        made.rank(serve="process")
        url = url_of(made.folder)
        assert url.startswith("https://")
        wait_for(lambda: keys.get(url)[0] == 200)
        groups = json.loads(wait_for(lambda: sd_file.exists() and sd_file.read_text()))
        assert [{"__scheme__": "https"}] == [group["labels"] for group in groups]
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            Keys(keys.folder, keys.authority, keys.stranger, keys.client).get(url)
        made.ranks[0].end()


def test_an_agent_does_not_start_unprotected(keys: Keys, tmp_path: Path) -> None:
    """A web config file with a mistake ends the agent with the reason, rather than to serve in the open."""
    (keys.folder / "web.yml").write_text(WEB_CONFIG.replace("client_auth_type", "client_auth_tipe"))
    with node(tmp_path / "boxes") as made:
        agent = made.agent("--web-config", keys.web_config, wait=False)
        assert "Did you mean client_auth_type?" in agent.communicate(timeout=PATIENCE)[1]
        assert 2 == agent.returncode


def test_prometheus_scrapes_with_certificate_and_password(
    keys: Keys, tmp_path: Path, prometheus: str
) -> None:
    """The scrape configuration of docs/security.md, on a real Prometheus."""
    port = free_port()
    with node(tmp_path / "boxes") as made:
        made.rank(serve="off")
        made.agent("--web-config", keys.web_config, wait=False)
        target = url_of(made.folder).removeprefix("https://").removesuffix("/metrics")
        (tmp_path / "password").write_text(PASSWORD)
        (tmp_path / "prometheus.yml").write_text(
            f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: trainbeacon
    scheme: https
    tls_config:
      ca_file: {keys.authority.certificate}
      cert_file: {keys.client.certificate}
      key_file: {keys.client.key}
    basic_auth:
      username: prometheus
      password_file: {tmp_path / "password"}
    static_configs:
      - targets: ["{target}"]
"""
        )
        command = [prometheus, f"--config.file={tmp_path / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        with (tmp_path / "prometheus.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(lambda: is_scraped(port, 3), what="three scrapes in a row")
        finally:
            server.terminate()
            server.wait(PATIENCE)


def test_the_documented_files_are_valid(keys: Keys, repository: Path, promtool: str) -> None:
    """What docs/security.md has for copying is taken by us and by promtool."""
    blocks = re.findall(
        r"```yaml\n# (\S+)\n(.*?)```", (repository / "docs/security.md").read_text(), re.DOTALL
    )
    assert ["web.yml", "prometheus.yml"] == [name for name, _ in blocks]
    for name, text in blocks:
        (keys.folder / name).write_text(text)
    (keys.folder / "password").write_text(PASSWORD)
    for kind, (name, _) in zip(("web-config", "config"), blocks, strict=True):
        command = [promtool, "check", kind, str(keys.folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert ["prometheus"] == list(read(keys.web_config).users)


def is_scraped(port: int, times: int) -> bool:
    query = f"count_over_time(training_world_size[1m]) >= {times} and on() up == 1"
    with contextlib.suppress(OSError, ValueError):
        return bool(web.get_json(f"http://127.0.0.1:{port}/api/v1/query", query=query)["data"]["result"])
    return False


# Two users and a group. What another user is to run is loaded before the process becomes that user,
# because the environment of the tests may lie where only root can read.

GROUP, MEMBER, OTHER_MEMBER, STRANGER = 64000, 64001, 64002, 64003
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as other users")
BECOME = """
import os, sys
import encodings.idna
import trainbeacon.recorder.api.beacon, trainbeacon.cli.agent, trainbeacon.exporter.service
trainbeacon.cli.build_parser()  # every command
uid, groups = int(sys.argv[1]), [int(group) for group in sys.argv[2].split(",") if group]
os.umask(0o022)
os.setgroups(groups); os.setgid(uid); os.setuid(uid)
"""
RANK = """
with trainbeacon.start(run="r", serve="off", directory=sys.argv[3], gpu=False) as beacon:
    print("ready", flush=True)
    sys.stdin.readline()
"""
AGENT = "sys.exit(trainbeacon.cli.main(['agent', *sys.argv[3:]]))"


@contextlib.contextmanager
def running(program: str, uid: int, groups: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program as that user in these groups."""
    process = subprocess.Popen(
        [sys.executable, "-c", BECOME + program, str(uid), groups, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        cwd="/",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


Running = contextlib.AbstractContextManager[subprocess.Popen[str]]


def agent_of(uid: int, groups: str, directory: Path, port: int) -> Running:
    fixed = [f"--directory={directory}", "--host=127.0.0.1", f"--port={port}", "--no-gpu"]
    return running(AGENT, uid, groups, *fixed)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that a group shares, where every user can get to it."""
    folder = Path(f"/tmp/trainbeacon-test-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2770)
    yield folder
    shutil.rmtree(folder)


def boxes_seen(port: int) -> dict[str, float]:
    """What an agent says of the boxes in its directory and how many ranks it serves; empty if silent."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        served = scrape(f"http://127.0.0.1:{port}/metrics")
        states = ("live", "dead", "invalid")
        seen = {state: served[series("trainbeacon_blackboxes", state=state)] for state in states}
        ranks = sum(key.name == "training_start_timestamp_seconds" for key in served)
        return {**seen, "ranks": float(ranks)}
    return {}


@needs_root
class TestUsers:
    def test_a_group_shares_a_directory(self, shared: Path) -> None:
        """Ranks of one user are served by another user of the group, and later by a third."""
        port = free_port()
        everything = {"live": 1.0, "dead": 0.0, "invalid": 0.0, "ranks": 1.0}
        with running(RANK, MEMBER, str(GROUP), str(shared)) as rank:
            assert rank.stdout
            assert "ready\n" == rank.stdout.readline()
            (box,) = shared.glob("*.box")
            assert (MEMBER, GROUP, 0o640) == who_and_mode(box)
            for uid in (OTHER_MEMBER, MEMBER):
                with agent_of(uid, str(GROUP), shared, port):
                    wait_for(lambda: boxes_seen(port) == everything, what=f"rank served by {uid}")
            assert (GROUP, 0o660) == who_and_mode(shared / "exporter.lock")[1:]

    def test_a_group_shares_a_sticky_directory(self, shared: Path) -> None:
        """With the sticky bit nobody takes another's box away; two users record, with evidence each."""
        shared.chmod(0o3770)
        port = free_port()
        with (
            running(RANK, MEMBER, str(GROUP), str(shared)) as one,
            running(RANK.replace('run="r"', 'run="s"'), OTHER_MEMBER, str(GROUP), str(shared)) as other,
        ):
            for rank in (one, other):
                assert rank.stdout
                assert "ready\n" == rank.stdout.readline()
            folders = {who_and_mode(path)[0]: path for path in shared.iterdir() if path.is_dir()}
            assert {MEMBER, OTHER_MEMBER} == set(folders)
            assert {0o700} == {who_and_mode(path)[2] & 0o777 for path in folders.values()}
            (box,) = shared.glob("r.*.box")
            taken = subprocess.run(
                ["mv", box, box.with_suffix(".taken")], user=OTHER_MEMBER, group=GROUP, capture_output=True
            )
            assert 0 != taken.returncode
            with agent_of(OTHER_MEMBER, str(GROUP), shared, port):
                both = {"live": 2.0, "dead": 0.0, "invalid": 0.0, "ranks": 2.0}
                wait_for(lambda: boxes_seen(port) == both, 120, "both ranks")

    def test_who_is_not_in_the_group_gets_nowhere(self, shared: Path) -> None:
        """Neither a rank nor an agent of a stranger can use the directory; both say why."""
        with running(RANK, MEMBER, str(GROUP), str(shared)) as rank:
            assert rank.stdout
            rank.stdout.readline()
            with agent_of(STRANGER, "", shared, free_port()) as agent:
                said = agent.communicate(timeout=PATIENCE)[1]
            assert 2 == agent.returncode
            assert f"{str(shared)!r} cannot be used: Permission denied" in said

    def test_boxes_that_may_not_be_read_are_counted(self, shared: Path) -> None:
        """In a directory open to all, a stranger's agent serves nobody's rank and says that it cannot."""
        shared.chmod(0o3777)
        port = free_port()
        with running(RANK, MEMBER, str(GROUP), str(shared)) as rank:
            assert rank.stdout
            assert "ready\n" == rank.stdout.readline()
            with agent_of(STRANGER, "", shared, port):
                nothing = {"live": 0.0, "dead": 0.0, "invalid": 1.0, "ranks": 0.0}
                wait_for(lambda: boxes_seen(port) == nothing, what="count of what cannot be read")

    def test_the_default_directory_is_the_users_own(self, tmp_path: Path) -> None:
        """Another user can neither look into it nor take its name away before it is made."""
        own = Path(f"/dev/shm/trainbeacon-{MEMBER}")
        assert not own.exists(), "left by an earlier run"
        default = RANK.replace("directory=sys.argv[3], ", "")
        try:
            with running(default, MEMBER, str(GROUP)) as rank:
                assert rank.stdout
                assert "ready\n" == rank.stdout.readline()
                assert (MEMBER, MEMBER, 0o700) == who_and_mode(own)
                look = subprocess.run(["ls", own], user=OTHER_MEMBER, group=GROUP, extra_groups=[])
                assert 2 == look.returncode
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def test_a_default_directory_that_somebody_else_made_is_refused(self) -> None:
        """Training goes on without a box rather than to write where another user waits for it."""
        trap = Path(f"/dev/shm/trainbeacon-{MEMBER}")
        assert not trap.exists(), "left by an earlier run"
        trap.mkdir()
        os.chown(trap, STRANGER, STRANGER)
        trap.chmod(0o777)
        try:
            with running(RANK.replace("directory=sys.argv[3], ", ""), MEMBER, str(GROUP)) as rank:
                said = rank.communicate("\n", timeout=PATIENCE)
            assert "ready\n" == said[0]
            assert 0 == rank.returncode
            assert f"owned by uid {STRANGER}" in said[1]
            assert [] == list(trap.iterdir())
        finally:
            shutil.rmtree(trap)


def who_and_mode(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
