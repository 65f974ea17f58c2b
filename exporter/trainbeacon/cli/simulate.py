"""`trainbeacon simulate`: a fleet of training jobs without torch and without GPUs."""

from __future__ import annotations

import argparse
import signal
import sys

NAME = "simulate"
HELP = "serve a simulated fleet on loopback, or write a day of it for Prometheus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--ranks", type=_count, default=16, help="training processes in all (default 16)")
    parser.add_argument("--nodes", type=_count, default=2, help="nodes, each a target (default 2)")
    parser.add_argument("--runs", type=_count, default=2, help="runs that the ranks are dealt to (default 2)")
    parser.add_argument(
        "--scenario",
        default="",
        metavar="NAME[,NAME...]",
        help="faults, the first for the first run and so on",
    )
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument(
        "--onset", type=_positive, metavar="S", help="seconds until the first fault (default 120)"
    )
    parser.add_argument(
        "--lasting", type=_positive, metavar="S", help="seconds until a fault is over (default: never)"
    )
    parser.add_argument(
        "--speed", type=_positive, default=1.0, metavar="X", help="all that trains goes X times as fast"
    )
    parser.add_argument("--seed", type=int, default=0, help="of victims, sizes and noise (default 0)")
    parser.add_argument("--duration", type=_positive, metavar="S", help="end after so many seconds")
    parser.add_argument("--port", type=_port, default=0, help="port of the first node (default: free ones)")
    parser.add_argument("--sd-dir", metavar="DIR", help="write the targets there, for file_sd_configs")
    parser.add_argument("--truth", metavar="FILE", help="write there what is amiss, when and where, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or the end of the duration; returns the exit status."""
    from trainbeacon.simulate.fleet import Size
    from trainbeacon.simulate.scenarios import SCENARIOS, Plan
    from trainbeacon.simulate.session import Options, Session

    if arguments.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:<20}{scenario.summary}")
        return 0
    names = [name for name in arguments.scenario.split(",") if name]
    try:
        size = Size(arguments.ranks, arguments.nodes, arguments.runs)
        plan = Plan(names, arguments.onset or 120.0, arguments.lasting)
    except ValueError as error:
        print(f"trainbeacon simulate: {error}", file=sys.stderr)
        return 2
    session = Session(
        Options(
            size=size,
            plan=plan,
            speed=arguments.speed,
            seed=arguments.seed,
            port=arguments.port,
            duration=arguments.duration,
            sd_dir=arguments.sd_dir,
            truth=arguments.truth,
        )
    )
    signal.signal(signal.SIGINT, session.stop)
    signal.signal(signal.SIGTERM, session.stop)
    return session.run()


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return float(text)


def _port(text: str) -> int:
    if not 0 <= int(text) < 65536:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return int(text)
