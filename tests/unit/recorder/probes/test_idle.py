"""Whether a process only waits: real processes that wait, work, or are inside the file system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import environment

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
