"""`trainbeacon demo`: real distributed training on this machine, watched by Prometheus and Alertmanager."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from trainbeacon.cli.argument_types import at_least_one, port, positive

NAME = "demo"
HELP = "train a small model on this machine, with Prometheus and Alertmanager around it"

FAULTS = ("nan", "straggler", "hang", "crash")
_NEEDED = ("torch", "numpy", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--ranks", type=at_least_one, default=4, help="training processes (default 4)")
    parser.add_argument("--minutes", type=positive, default=5.0, help="how long to train (default 5)")
    parser.add_argument("--port", type=port, default=9797, help="port of /metrics on loopback (default 9797)")
    parser.add_argument("--fault", choices=FAULTS, default="", help="let this happen to one rank")
    parser.add_argument(
        "--fault-at", type=positive, default=30.0, help="seconds of training until the fault (default 30)"
    )
    parser.add_argument(
        "--no-stack", action="store_false", dest="stack", help="without Prometheus and Alertmanager"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo to its end; returns its exit status."""
    missing = [module for module in _NEEDED if find_spec(module) is None]
    if missing:
        print(
            f"trainbeacon demo needs {', '.join(missing)}: pip install 'trainbeacon[demo]'", file=sys.stderr
        )
        return 2
    from trainbeacon.demo.session import Options, Session
    from trainbeacon.demo.terminal import Terminal

    options = Options(
        ranks=arguments.ranks,
        minutes=arguments.minutes,
        port=arguments.port,
        fault=arguments.fault,
        fault_at=arguments.fault_at,
        stack=arguments.stack,
    )
    return Session(options, Terminal()).run()
