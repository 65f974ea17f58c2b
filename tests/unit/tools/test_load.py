"""The load that tests are run beside: it competes, tells which run failed, and never outlives its command."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.serving import PATIENCE, wait_for
from tools import load

PROGRAM = Path(load.__file__)


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)


def burners(program: subprocess.Popen[str]) -> list[psutil.Process]:
    """The busy processes of a load."""
    return [each for each in psutil.Process(program.pid).children() if load.BURNER in each.cmdline()]


def command_of(program: subprocess.Popen[str]) -> psutil.Process | None:
    """The command beside it, once it runs."""
    return next((each for each in psutil.Process(program.pid).children() if each.name() == "sleep"), None)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_processes_compute_until_the_command_ends() -> None:
    """They take processor time at normal priority, and are gone with the command."""
    with started("--processes=2", "--", "sleep", "600") as program:
        busy = wait_for(lambda: len(found := burners(program)) == 2 and found, what="two processes")
        wait_for(lambda: all(each.cpu_times().user > 0.1 for each in busy), what="processor time")
        assert {psutil.Process().nice()} == {each.nice() for each in busy}
        wait_for(lambda: command_of(program), what="command").kill()
        assert 1 == program.wait(PATIENCE)
        assert gone(busy)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_nothing_outlives_a_program_that_is_killed(number: signal.Signals) -> None:
    """However it ends, the machine is not left busy."""
    with started("--processes=2", "--", "sleep", "5") as program:
        busy = wait_for(lambda: len(found := burners(program)) == 2 and found, what="two processes")
        program.send_signal(number)
        wait_for(lambda: gone(busy), what="end of the load")


def test_the_load_is_bounded_in_time() -> None:
    """A command that never ends is not burdened for ever."""
    with started("--processes=1", "--minutes=0.01", "--", "sleep", "600") as program:
        command = wait_for(lambda: command_of(program), what="command")
        wait_for(lambda: gone(psutil.Process(program.pid).children()[:1]), what="end of the load")
        assert command.is_running()
        command.kill()


def test_every_run_is_made_and_one_that_fails_is_the_status(tmp_path: Path) -> None:
    """A failure does not end the series: how often it fails is what is asked."""
    script = f"echo x >> {tmp_path / 'runs'}; test $(wc -l < {tmp_path / 'runs'}) -ne 2"
    program = started("--processes=1", "--runs=3", "--", "sh", "-c", script)
    said, _ = program.communicate(timeout=PATIENCE)
    assert 1 == program.returncode
    assert ["0", "1", "0"] == [line.split("status ")[1][0] for line in said.splitlines() if "status" in line]
    assert "2 of 3 runs passed beside 1 busy ones" in said
