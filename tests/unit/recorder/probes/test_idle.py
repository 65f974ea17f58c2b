"""Whether a process only waits: real processes that wait, work, or are inside the file system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.serving import environment, wait_for
from trainbeacon.recorder.probes.idle import FileWaits
from trainbeacon.testing import FakeClock

#: Runs some code in its main thread, while another polls until twenty polls in a row say what is expected.
#: On a full machine what is at rest may still be starting at the first poll: then it counts anew.
PROGRAM = """
import os, platform, socket, subprocess, sys, threading, time
from trainbeacon.recorder.probes.idle import ProcessActivity

leave_out = set()
SETUP

def poll():
    activity = ProcessActivity(leave_out)
    activity.begin()
    polls = same = 0
    while same < 20:
        time.sleep(0.05)
        found = "works" if activity.used_cpu() or not activity.at_rest() else "rests"
        polls, same = polls + 1, same + 1 if found == EXPECTED else 0
        if EXPECTED == "rests" and polls % 40 == 0 and not same:
            activity.begin()
    print(found, flush=True)

threading.Thread(target=poll).start()
MAIN
"""
BURN = "sh -c 'while :; do :; done'; true"


def assert_found(expected: str, main: str, tmp_path: Path, setup: str = "") -> None:
    """A process whose main thread runs this code is found to work, or to rest; else the test does not end."""
    program = PROGRAM.replace("EXPECTED", repr(expected)).replace("SETUP", setup).replace("MAIN", main)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert f"{expected}\n" == process.stdout.readline()
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its children too
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    "main",
    [
        "lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "time.sleep(60)",
        "pair = socket.socketpair(); pair[0].recv(1)",
        "ends = os.pipe(); os.read(ends[0], 1)",
        "end = os.pipe()[1]\nwhile True: os.write(end, bytes(65536))",
        "subprocess.run(['sleep', '60'])",
    ],
    ids=["lock", "sleep", "socket", "empty pipe", "full pipe", "child that sleeps"],
)
def test_who_waits_for_others_rests(main: str, tmp_path: Path) -> None:
    """A dead peer, a lock that nobody frees, a reader that does not read, a child that does nothing."""
    assert_found("rests", main, tmp_path)


@pytest.mark.parametrize(
    "main",
    [
        "while True: pass",
        "subprocess.run(['sh', '-c', 'while :; do :; done'])",
        f"subprocess.run(['sh', '-c', {BURN!r}])",
        "while True: subprocess.run(['sleep', '0.01'])",
        "os.mkfifo('pipe'); open('pipe', 'wb')",
    ],
    ids=[
        "computes",
        "child that computes",
        "grandchild that computes",
        "children come and go",
        "file system",
    ],
)
def test_who_works_or_waits_for_the_file_system_does_not(main: str, tmp_path: Path) -> None:
    """Processor time counts from a fifth of a second on, of the children too; a slow save ends by itself."""
    assert_found("works", main, tmp_path)


#: The clock of the program below: so many seconds later each time it is asked.
STALE = """
now = [0.0]
made = ProcessActivity
def ProcessActivity(leave_out):
    def clock():
        now[0] += STEP
        return now[0]
    return made(leave_out, clock)
"""


@pytest.mark.parametrize(
    ("expected", "step", "main"),
    [
        ("rests", 130.0, "os.mkfifo('pipe'); open('pipe', 'wb')"),
        ("works", 0.1, "os.mkfifo('pipe'); open('pipe', 'wb')"),
        (
            "works",
            130.0,
            "file = open('data', 'wb')\nwhile True: file.write(bytes(4096)); os.fsync(file.fileno())",
        ),
    ],
    ids=["storage that never answers", "storage that may answer yet", "bytes that move"],
)
def test_storage_that_hangs_is_no_work(expected: str, step: float, main: str, tmp_path: Path) -> None:
    """After two minutes in one call without a byte; a save that moves is work however long it takes."""
    assert_found(expected, main, tmp_path, STALE.replace("STEP", str(step)))


def test_a_flush_has_longer(tmp_path: Path) -> None:
    """What the kernel writes on behalf of a process does not show in its counts: ten minutes."""
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        (tmp_path / "pipe").open("wb").close()

    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(begun.is_set)
    clock = FakeClock()
    plain, flush = FileWaits(frozenset(), clock), FileWaits(frozenset({7}), clock)
    found = []
    for seconds in (0.0, 119.0, 2.0, 478.0, 2.0):
        clock.advance(seconds)
        found.append([each.hangs(os.getpid(), thread.native_id or 0, 7) for each in (plain, flush)])
    (tmp_path / "pipe").open("rb").close()
    thread.join()
    assert [[False, False], [False, False], [True, False], [True, False], [True, True]] == found


STARVED = """
import trainbeacon.recorder.probes.idle as idle
waited = [0.0]
def runnable(pid):
    waited[0] += WAITS
    return waited[0]
idle._seconds_runnable = runnable
"""


@pytest.mark.parametrize(("expected", "waits"), [("works", "0.5"), ("rests", "0.0")])
def test_a_child_that_waits_for_a_processor_works(expected: str, waits: str, tmp_path: Path) -> None:
    """On a machine that is full an upload takes next to no time for long, and is no standstill."""
    setup = STARVED.replace("WAITS", waits)
    assert_found(expected, "subprocess.run(['sleep', '60'])", tmp_path, setup)


def test_the_exporter_among_the_children_does_not_count(tmp_path: Path) -> None:
    """It answers scrapes, however the training does."""
    setup = "leave_out.add(subprocess.Popen(['sh', '-c', 'while :; do :; done']).pid)"
    assert_found("rests", "time.sleep(60)", tmp_path, setup)


@pytest.mark.parametrize(
    "setup",
    ["platform.machine = lambda: 'riscv64'", "os.path.exists = lambda path: False"],
    ids=["unknown processor", "kernel that does not tell"],
)
def test_where_nobody_can_tell_nobody_rests(setup: str, tmp_path: Path) -> None:
    """A run is never called idle by mistake: it is given as long as before."""
    assert_found("works", "time.sleep(60)", tmp_path, setup)
