"""faulthandler's timer: kept from going off, left to who had it first, and no trap for forked children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainbeacon.recorder.hangs import watchdog

BEGIN = """
import ctypes, faulthandler, os, sys, time
from trainbeacon.recorder.hangs import watchdog
watchdog.LEAST_SECONDS = 0.3
"""

HELD = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.3)
def holds_it():
    ctypes.PyDLL(None).usleep(700_000)
holds_it()
print("holds_it" in dog.take(), repr(dog.take()))
dog.stop()
print(os.path.exists(sys.argv[1]))
"""

KEPT = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
end = time.monotonic() + 0.9
while time.monotonic() < end:
    dog.keep(0.3)
    time.sleep(0.02)
print(dog.stands_down, repr(dog.take()))
dog.stop()
time.sleep(0.4)
print(os.path.exists(sys.argv[1]))
"""

FOREIGN = """
faulthandler.dump_traceback_later(0.6, file=sys.stdout)
time.sleep(0.1)
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.3)
print(dog.stands_down, flush=True)
time.sleep(0.7)
print(repr(dog.take()))
dog.stop()
"""

TAKEN = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.8)
time.sleep(0.1)
dog.keep(0.8)
faulthandler.dump_traceback_later(1, file=sys.stdout)
time.sleep(0.3)
dog.keep(0.8)
print(dog.stands_down, flush=True)
dog.stop()
time.sleep(0.9)
"""

FORKED = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.5)
pid = os.fork()
if pid == 0:
    sys.exit(0)  # an orderly end, which waits for the timer's thread
print(os.waitpid(pid, 0)[1])
time.sleep(0.8)
print("in <module>" in dog.take())
"""


TAKEN_BEFORE_FORK = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.8)
time.sleep(0.1)
dog.keep(0.8)
faulthandler.dump_traceback_later(1, file=sys.stdout)
time.sleep(0.1)  # the thread that was ours is gone
if os.fork() == 0:
    os._exit(0)
print(dog.stands_down, flush=True)
time.sleep(1.2)
dog.stop()
"""


def say(program: str, path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, path], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.splitlines()


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are looked at in /proc")


def test_held_interpreter_leaves_its_stacks(tmp_path: Path) -> None:
    """The line that holds the interpreter is in the file, once; an empty file is not left behind."""
    assert ["True ''", "False"] == say(HELD, tmp_path / "file")


def test_timer_that_is_kept_does_not_go_off(tmp_path: Path) -> None:
    """Nothing is written while the process lives as usual, nor after the end of the run."""
    assert ["False ''", "False"] == say(KEPT, tmp_path / "file")


def test_timer_of_the_script_is_left_alone(tmp_path: Path) -> None:
    """A script that armed the timer before gets its own traceback at its own time."""
    said = say(FOREIGN, tmp_path / "file")
    assert ("True", "''") == (said[0], said[-1])
    assert "Timeout (0:00:00.600000)!" in said


@pytest.mark.parametrize("program", [TAKEN, TAKEN_BEFORE_FORK])
def test_timer_that_the_script_takes_later_is_its_own(program: str, tmp_path: Path) -> None:
    """Ours stands down for good when it finds itself replaced, and does not come back after a fork."""
    said = say(program, tmp_path / "file")
    assert "True" == said[0]
    assert "Timeout (0:00:01)!" in said


def test_forked_child_ends_and_the_parent_is_still_watched(tmp_path: Path) -> None:
    """A child that ends orderly would wait for ever for a thread that it does not have."""
    assert ["0", "True"] == say(FORKED, tmp_path / "file")


def test_shortest_time_leaves_room_for_a_busy_helper_thread() -> None:
    """It calls once a second on a quiet machine."""
    assert watchdog.LEAST_SECONDS >= 3
