"""The command `trainbeacon`: one file a command.

A command is a module of this package with `NAME`, `HELP`, `add_arguments(parser)` and
`run(arguments) -> int`. It imports what is heavy (torch, prometheus_client) inside `run`, so that
the help of all commands costs milliseconds. To add one: its file, and its name in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from trainbeacon._version import __version__

#: In the order of the help text.
COMMANDS = (
    "up",
    "down",
    "status",
    "top",
    "doctor",
    "report",
    "thresholds",
    "run",
    "demo",
    "simulate",
    "agent",
    "stacks",
    "profile",
    "notify",
    "runbook",
    "bundle",
    "catalogue",
    "replay",
    "install-autostart",
)


class Command(Protocol):
    """What a module of a command provides."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options of the command."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work; returns the exit status."""


def module_of(name: str) -> str:
    """The module of a command: a dash on the command line is an underscore in Python."""
    return f"{__name__}.{name.replace('-', '_')}"


def load(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, import_module(module_of(name)))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="trainbeacon", description="Prometheus metrics for deep-learning training."
    )
    parser.add_argument("--version", action="version", version=f"trainbeacon {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        if find_spec(module_of(name)) is None:  # a package may leave a command out
            continue
        command = load(name)
        sub = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. Wrong usage raises SystemExit(2), as argparse does."""
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `trainbeacon catalogue | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return status
