"""How a process ends, and what is served of it: a table of ends, each in a process that is forked for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.serving import PATIENCE, environment, node, wait_for
from trainbeacon.testing import Series

_DRIVER = """
import atexit, asyncio, contextlib, multiprocessing, os, resource, signal, sys, threading, time
import trainbeacon
import multiprocessing.util
FOLDER = sys.argv[1]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def begin(**settings):
    beacon = trainbeacon.start(**{"run": NAME, "directory": FOLDER, "serve": "off", **settings})
    step(beacon)
    return beacon

def step(beacon):
    with beacon.step():
        pass

def fail():
    return {}["lost"]

def train(name, folder):  # in a child of multiprocessing
    global NAME, FOLDER
    NAME, FOLDER = name, folder
    begin()
    fail()

def child(method):
    process = multiprocessing.get_context(method).Process(target=train, args=(NAME, FOLDER))
    process.start()
    process.join()
    sys.exit(process.exitcode)

PIDS = {}
if __name__ == "__main__":
    for NAME, PROGRAM in eval(sys.stdin.read()).items():
        PIDS[NAME] = os.fork()
        if not PIDS[NAME]:
            exec(PROGRAM)
            break
    else:
        print({name: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for name, pid in PIDS.items()})
"""


@dataclass(frozen=True)
class End:
    """A program, and what is true of its end: exit status, state, and the failure by class and kind."""

    program: str
    status: int
    state: str
    failure: tuple[str, str] | None = None


_FAILED = ("KeyError", "other")
_INTERRUPTED = ("KeyboardInterrupt", "interrupted")
_INTERRUPT = "signal.raise_signal(signal.SIGINT); time.sleep(60)"

ENDS = {
    "falls off its end": End("begin()", 0, "exited"),
    "sys.exit()": End("begin(); sys.exit(0)", 0, "exited"),
    "sys.exit(3)": End("begin(); sys.exit(3)", 3, "exited"),
    "sys.exit(text)": End("begin(); sys.exit('no data')", 1, "exited"),
    "sys.exit() in with": End("with begin(): sys.exit()", 0, "finished"),
    "sys.exit(3) in with": End("with begin(): sys.exit(3)", 3, "failed", ("SystemExit", "other")),
    "sys.exit of a handler, in with": End(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with begin(): signal.raise_signal(signal.SIGTERM)",
        143,
        "failed",
        ("SystemExit", "interrupted"),
    ),
    "sys.exit(1) of a failure, in with": End(
        "with begin():\n  try: fail()\n  except KeyError: sys.exit(1)", 1, "failed", _FAILED
    ),
    "os._exit": End("begin(); os._exit(0)", 0, "crashed"),
    "SIGTERM": End("begin(); signal.raise_signal(signal.SIGTERM)", -15, "crashed"),
    "SIGKILL": End("begin(); os.kill(os.getpid(), signal.SIGKILL)", -9, "crashed"),
    "abort": End("begin(); os.abort()", -6, "crashed"),
    "exec": End("begin(); os.execv('/bin/true', ['true'])", 0, "crashed"),
    "SIGINT": End(f"begin(); {_INTERRUPT}", -2, "failed", _INTERRUPTED),
    "SIGINT in with": End(f"with begin(): {_INTERRUPT}", -2, "failed", _INTERRUPTED),
    "uncaught": End("begin(); fail()", 1, "failed", _FAILED),
    "uncaught, and a hook over ours": End(
        "begin(); sys.excepthook = lambda *_: None; fail()", 1, "failed", _FAILED
    ),
    "finish in finally": End(
        "beacon = begin()\ntry: fail()\nfinally: beacon.finish()", 1, "failed", _FAILED
    ),
    "finish in finally, well": End("beacon = begin()\ntry: pass\nfinally: beacon.finish()", 0, "finished"),
    "finish in finally of a function": End(
        "def run():\n  try: fail()\n  finally: (lambda: beacon.finish())()\nbeacon = begin(); run()",
        1,
        "failed",
        _FAILED,
    ),
    "finish in finally, closed generator": End(
        "def run():\n  beacon = begin()\n  try: yield\n  finally: beacon.finish()\nfor _ in run(): break",
        0,
        "finished",
    ),
    "finish by a stack": End(
        "with contextlib.ExitStack() as stack:\n  stack.callback(begin().finish); fail()",
        1,
        "failed",
        _FAILED,
    ),
    "finish, and raised again": End(
        "beacon = begin()\ntry: fail()\nexcept KeyError: beacon.finish(); raise", 1, "failed", _FAILED
    ),
    "finish, handled": End("beacon = begin()\ntry: fail()\nexcept KeyError: beacon.finish()", 0, "finished"),
    "begun while another was handled": End(
        "try: fail()\nexcept KeyError:\n  with contextlib.suppress(ValueError): begin().finish()",
        0,
        "finished",
    ),
    "finish at exit": End("beacon = begin(); atexit.register(beacon.finish)", 0, "finished"),
    "in a task": End("async def run():\n  begin(); fail()\nasyncio.run(run())", 1, "failed", _FAILED),
    "in a thread": End(
        "begin(); t = threading.Thread(target=fail); t.start(); t.join()", 0, "exited"
    ),
    "a child fails": End("begin()\nif not os.fork(): fail()\nos.wait()", 0, "exited"),
    "caught, and trained on": End(
        "beacon = begin()\ntry: fail()\nexcept KeyError as error: beacon.on_exception(error)\n"
        "step(beacon); beacon.finish()",
        0,
        "finished",
    ),
    "shown, and trained on": End(
        "beacon = begin()\ntry: fail()\nexcept KeyError: sys.excepthook(*sys.exc_info())\nstep(beacon)",
        0,
        "exited",
    ),
    "started again": End("begin(); begin(run='the second of it').finish()", 0, "finished"),
    "started again after a failure": End(
        "begin()\ntry: fail()\nexcept KeyError: begin(run='the second of it').finish()", 0, "failed", _FAILED
    ),
    "child of fork": End("child('fork')", 1, "failed", _FAILED),
    "child of spawn": End("child('spawn')", 1, "failed", _FAILED),
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    statuses: dict[str, int]
    served: dict[Series, float]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """All ends, in two folders: of those that end well only so many are kept."""
    folder = tmp_path_factory.mktemp("ends")
    (folder / "driver.py").write_text(_DRIVER)
    statuses: dict[str, int] = {}
    served: dict[Series, float] = {}
    names = list(ENDS)
    for part in (names[::2], names[1::2]):
        with node(folder / f"boxes{len(statuses)}") as made:
            done = subprocess.run(
                [sys.executable, str(folder / "driver.py"), str(made.folder)],
                input=repr({name: ENDS[name].program for name in part}),
                env={**environment(), "PYTHONWARNINGS": "ignore"},  # threads and forks
                capture_output=True,
                text=True,
                timeout=2 * PATIENCE,
            )
            assert done.returncode == 0, done.stderr
            statuses |= eval(done.stdout.splitlines()[-1])
            made.agent("--linger=3600")

            def settled(made=made) -> dict[Series, float]:
                scraped = made.scrape()
                open_ones = [
                    key for key, value in scraped.items() if ("state", "running") in key.labels and value
                ]
                return {} if open_ones else scraped

            served |= wait_for(settled, what="end of all of them")
    return Seen(statuses, served)


def _labels(seen: Seen, metric: str, run: str) -> list[Series]:
    return [key for key, on in seen.served.items() if key.name == metric and on and key.label("run") == run]


@pytest.mark.parametrize("name", ENDS)
def test_end(name: str, seen: Seen) -> None:
    """State, failure and exit status are those of this end."""
    end = ENDS[name]
    states = [key.label("state") for key in _labels(seen, "training_state", name)]
    failures = [
        (key.label("exception"), key.label("kind")) for key in _labels(seen, "training_failure_info", name)
    ]
    times = _labels(seen, "training_failure_timestamp_seconds", name)
    assert [end.failure] * bool(end.failure) == failures
    assert (end.status, [end.state], len(failures)) == (seen.statuses[name], states, len(times))
