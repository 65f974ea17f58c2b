"""The promise of every command: it exists, explains itself, and its help costs nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trainbeacon import cli

HEAVY = ("torch", "numpy", "prometheus_client", "h11", "pynvml", "rich")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_exists_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every listed command has its module, its line in the help of all, and help of its own."""
    command = cli.load(name)
    assert name == command.NAME
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    own_help = " ".join(capsys.readouterr().out.split())
    assert command.HELP in own_help
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["catalogue"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    """Help and catalogue answer at once, also where torch is not installed."""
    program = (
        "import json, sys\n"
        "from trainbeacon.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert set() == set(HEAVY) & set(json.loads(done.stderr))
