"""`trainbeacon agent` as a command: what it refuses, and what it says then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import Node, environment, node


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "boxes") as made:
        yield made


def agent(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainbeacon", "agent", *arguments]
    return subprocess.run(command, env=environment(**env), capture_output=True, text=True, timeout=120)


def test_second_agent_says_who_serves_already(empty: Node) -> None:
    """Two agents on one directory are a mistake: the second one names the first and fails."""
    first = empty.agent()
    done = agent(f"--directory={empty.folder}", "--host=127.0.0.1", "--no-gpu")
    said = f"trainbeacon agent: this directory is served already at {empty.url()} (process {first.pid})\n"
    assert (1, said) == (done.returncode, done.stderr)


def test_second_exporter_of_a_rank_leaves_without_a_failure(empty: Node) -> None:
    """Several ranks may start one at once: for the loser all is well."""
    empty.agent()
    done = agent(f"--directory={empty.folder}", "--host=127.0.0.1", "--no-gpu", "--started-by-rank")
    assert 0 == done.returncode


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port=70000"], "port"),
        (["--linger=-1"], "linger_seconds"),
        (["--host=192.0.2.1", "--port=9"], "host='192.0.2.1', port=9"),
        (["--config=/nowhere.yml"], "/nowhere.yml"),
        (["--directory=/dev/null"], "/dev/null"),
    ],
)
def test_bad_setting_is_named(arguments: list[str], said: str, tmp_path: Path) -> None:
    """One line that names the setting, and exit status 2; no traceback."""
    done = agent(f"--directory={tmp_path}", "--no-gpu", *arguments)
    assert 2 == done.returncode
    assert said in done.stderr
    assert done.stderr.startswith("trainbeacon agent: ")
    assert "Traceback" not in done.stderr


def test_environment_and_file_give_what_options_do_not(empty: Node, tmp_path: Path) -> None:
    """Keyword, environment, file: in a container the agent is set up by variables."""
    file = tmp_path / "settings.yml"
    file.write_text(f"sd_file: {tmp_path / 'sd.json'}\nadvertise: file.example\n")
    empty.environment = {"TRAINBEACON_CONFIG": str(file), "TRAINBEACON_ADVERTISE": "variable.example"}
    empty.agent()
    assert "variable.example" in (tmp_path / "sd.json").read_text()


def test_port_0_takes_any(empty: Node) -> None:
    """The log and the lock's note say which one it got."""
    empty.settings["port"] = 0
    agent = empty.agent()
    url = empty.url()
    assert int(url.split(":")[2].split("/")[0]) > 0
    agent.terminate()
    assert agent.stderr
    assert f"serving {url}" in agent.stderr.read()
    assert 0 == agent.wait(10)


def test_directory_is_made(tmp_path: Path) -> None:
    """An agent that starts before any rank makes the directory that they will meet in."""
    with node(tmp_path / "a") as made:
        made.folder = tmp_path / "new" / "boxes"
        process = made.agent(wait=False)
        assert process.stderr
        assert "serving" in process.stderr.readline()
        assert os.path.isdir(made.folder)
