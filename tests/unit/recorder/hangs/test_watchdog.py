"""faulthandler's timer: kept from going off, left to who had it first, and no trap for forked children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainbeacon.recorder.hangs import watchdog

BEGIN = """
import ctypes, faulthandler, os, sys, time
from trainbeacon.recorder.hangs import watchdog
watchdog.LEAST_SECONDS = 0.3
LATER = 1.5  # seconds until the script's own timer goes off
own = open(sys.argv[1] + ".own", "w+")
def print_own():
    while os.fstat(own.fileno()).st_size == 0:
        time.sleep(0.05)
    own.seek(0)
    print(own.read())
"""

HELD = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.3)
def holds_it():
    # Without letting go of the interpreter, until the file has something.
    ctypes.PyDLL(None).system(b"until [ -s '%s' ]; do sleep 0.05; done" % sys.argv[1].encode())
holds_it()
print("holds_it" in dog.take(), repr(dog.take()))
dog.stop()
print(os.path.exists(sys.argv[1]))
"""

KEPT = """
gap = 1.0
while gap > 0.2:  # on a full machine this process is not always run in time: then it does not live as usual
    dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
    gap, kept = 0.0, time.monotonic()
    end = kept + 0.9
    while time.monotonic() < end:
        dog.keep(0.3)
        gap, kept = max(gap, time.monotonic() - kept), time.monotonic()
        time.sleep(0.02)
    if gap > 0.2:
        dog.stop()
print(dog.stands_down, repr(dog.take()))
dog.stop()
time.sleep(0.4)
print(os.path.exists(sys.argv[1]))
"""

FOREIGN = """
faulthandler.dump_traceback_later(LATER, file=own)
time.sleep(0.1)
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.3)
print(dog.stands_down, flush=True)
print_own()
print(repr(dog.take()))
dog.stop()
"""

TAKEN = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(60)
time.sleep(0.1)
dog.keep(60)
faulthandler.dump_traceback_later(LATER, file=own)
time.sleep(0.3)
dog.keep(59)  # sooner than before, so that it looks now
print(dog.stands_down, flush=True)
dog.stop()
print_own()
"""

FORKED = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(0.5)
pid = os.fork()
if pid == 0:
    sys.exit(0)  # an orderly end, which waits for the timer's thread
print(os.waitpid(pid, 0)[1])
stacks = ""
while not stacks:
    time.sleep(0.05)
    stacks = dog.take()
print("in <module>" in stacks)
"""


TAKEN_BEFORE_FORK = """
dog = watchdog.Watchdog(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), sys.argv[1])
dog.keep(60)
time.sleep(0.1)
dog.keep(60)
faulthandler.dump_traceback_later(LATER, file=own)
time.sleep(0.1)  # the thread that was ours is gone
if os.fork() == 0:
    os._exit(0)
print(dog.stands_down, flush=True)
print_own()
dog.stop()
"""


def say(program: str, path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, path], capture_output=True, text=True, timeout=120, check=True
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
    assert "Timeout (0:00:01.500000)!" in said


@pytest.mark.parametrize("program", [TAKEN, TAKEN_BEFORE_FORK])
def test_timer_that_the_script_takes_later_is_its_own(program: str, tmp_path: Path) -> None:
    """Ours stands down for good when it finds itself replaced, and does not come back after a fork."""
    said = say(program, tmp_path / "file")
    assert "True" == said[0]
    assert "Timeout (0:00:01.500000)!" in said


def test_forked_child_ends_and_the_parent_is_still_watched(tmp_path: Path) -> None:
    """A child that ends orderly would wait for ever for a thread that it does not have."""
    assert ["0", "True"] == say(FORKED, tmp_path / "file")


def test_shortest_time_leaves_room_for_a_busy_helper_thread() -> None:
    """It calls once a second on a quiet machine."""
    assert watchdog.LEAST_SECONDS >= 3


def test_no_stacks_of_running_threads_where_that_can_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.10 does not survive a dump that its timer makes while threads run: no timer is armed there."""
    monkeypatch.setattr(watchdog, "DUMPS_ARE_SAFE", False)
    path = tmp_path / "held"
    dog = watchdog.Watchdog(os.open(path, os.O_RDWR | os.O_CREAT), str(path))
    dog.keep(5.0)
    assert dog.stands_down
    assert dog._armed is False
    dog.stop()
