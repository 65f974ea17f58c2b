"""`trainbeacon simulate`: a fleet of training jobs without torch and without GPUs."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING

from trainbeacon.cli.argument_types import at_least_one, port_or_any, positive

if TYPE_CHECKING:
    from trainbeacon.simulate.fleet import Size

NAME = "simulate"
HELP = "serve a simulated fleet on loopback, or write a day of it for Prometheus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--ranks", type=at_least_one, default=16, help="training processes in all (default 16)"
    )
    parser.add_argument("--nodes", type=at_least_one, default=2, help="nodes, each a target (default 2)")
    parser.add_argument(
        "--runs", type=at_least_one, default=2, help="runs that the ranks are dealt to (default 2)"
    )
    parser.add_argument(
        "--stages", type=at_least_one, default=1, help="pipeline stages of each run (default 1)"
    )
    parser.add_argument(
        "--scenario",
        default="",
        metavar="NAME[,NAME...]",
        help="faults, the first for the first run and so on",
    )
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument(
        "--onset", type=positive, metavar="S", help="seconds until the first fault (default 120)"
    )
    parser.add_argument(
        "--lasting", type=positive, metavar="S", help="seconds until a fault is over (default: never)"
    )
    parser.add_argument(
        "--speed", type=positive, default=1.0, metavar="X", help="all that trains goes X times as fast"
    )
    parser.add_argument("--seed", type=int, default=0, help="of victims, sizes and noise (default 0)")
    parser.add_argument("--duration", type=positive, metavar="S", help="end after so many seconds")
    parser.add_argument(
        "--port", type=port_or_any, default=0, help="port of the first node (default: free ones)"
    )
    parser.add_argument("--sd-dir", metavar="DIR", help="write the targets there, for file_sd_configs")
    parser.add_argument("--history", type=_time, metavar="24h", help="write so much of the past, and end")
    parser.add_argument("--interval", type=positive, default=30.0, help="seconds of history (default 30)")
    parser.add_argument("--out", metavar="FILE", help="history as text for promtool")
    parser.add_argument("--blocks", metavar="DIR", help="history as blocks in Prometheus' data folder")
    parser.add_argument("--truth", metavar="FILE", help="write there what is amiss, when and where, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or the end of the duration, or write; returns the exit status."""
    from trainbeacon.simulate.scenarios import SCENARIOS

    if arguments.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:<20}{scenario.summary}")
        return 0
    try:
        return _write(arguments) if arguments.history else _serve(arguments)
    except (ValueError, OSError) as error:
        print(f"trainbeacon simulate: {error}", file=sys.stderr)
        return 2


def _size(arguments: argparse.Namespace) -> Size:
    from trainbeacon.simulate.fleet import Size

    return Size(arguments.ranks, arguments.nodes, arguments.runs, arguments.stages)


def _names(arguments: argparse.Namespace) -> list[str]:
    return [name for name in arguments.scenario.split(",") if name]


def _serve(arguments: argparse.Namespace) -> int:
    from trainbeacon.simulate.scenarios import Plan
    from trainbeacon.simulate.session import Options, Session

    session = Session(
        Options(
            size=_size(arguments),
            plan=Plan(_names(arguments), arguments.onset or 120.0, arguments.lasting),
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


def _write(arguments: argparse.Namespace) -> int:
    from trainbeacon.simulate.history import History
    from trainbeacon.simulate.scenarios import spread
    from trainbeacon.simulate.session import write_truth
    from trainbeacon.stack import binaries

    if not arguments.out and not arguments.blocks:
        raise ValueError("--history needs --out FILE or --blocks DIR")
    size, seconds = _size(arguments), arguments.history
    plan = spread(_names(arguments), size.runs, seconds, arguments.onset, arguments.lasting)
    history = History(
        size,
        plan,
        seconds=seconds,
        end=time.time(),
        interval=arguments.interval,
        seed=arguments.seed,
        speed=arguments.speed,
    )
    if arguments.blocks:
        promtool = binaries.find().promtool
        if promtool is None:
            raise ValueError("--blocks needs promtool; in a checkout of TrainBeacon: make tools")
        written = history.write_blocks(arguments.blocks, str(promtool))
    else:
        with open(arguments.out, "w") as file:
            written = history.write(file)
    if arguments.truth:
        write_truth(arguments.truth, written.injections)
    print(f"{written.samples} samples of {seconds / 3600:g} h in {written.seconds:.0f} s")
    return 0


def _time(text: str) -> float:
    from trainbeacon.simulate.history import seconds_of

    return seconds_of(text)
