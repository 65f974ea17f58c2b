"""`trainbeacon profile`: what a running rank spends its steps on, by torch.profiler."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainbeacon.profiling.ask import Asked
    from trainbeacon.profiling.trace import Profile
    from trainbeacon.recorder.probes.profile_files import Answer, Request

NAME = "profile"
HELP = "record some steps of a running rank with torch.profiler, and show what they are spent on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("run_name", nargs="?", metavar="RUN", help="(default: the run that started last)")
    parser.add_argument("--rank", type=int, default=0, metavar="N", help="a rank of this machine (default 0)")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps to record (default 5)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="record for so long at most (default 30)"
    )
    parser.add_argument(
        "-o", "--output", default=".", metavar="DIR", help="folder for the trace (default: here)"
    )
    parser.add_argument("--rows", type=int, default=15, metavar="N", help="operations to show (default 15)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--read", metavar="TRACE", help="show a trace that is there already; asks nobody")
    parser.add_argument(
        "--nsys", action="store_true", help="mark the steps for an Nsight Systems that the rank runs under"
    )
    parser.add_argument("--directory", metavar="DIR", help="folder of the black boxes")


def run(arguments: argparse.Namespace) -> int:
    """Take or read a profile: 0 with one, 1 without, 2 for wrong usage."""
    from trainbeacon.config.settings import ConfigError
    from trainbeacon.identity import printable
    from trainbeacon.profiling.ask import NoProfileError
    from trainbeacon.profiling.trace import TraceError, read

    try:
        if arguments.read:
            return _show(arguments, read(arguments.read), "")
        problem = _problem(arguments)
        if problem:
            print(f"trainbeacon profile: {problem}", file=sys.stderr)
            return 2
        return _take(arguments)
    except BrokenPipeError:
        raise
    except ConfigError as error:
        print(f"trainbeacon profile: {error}", file=sys.stderr)
        return 2
    except (NoProfileError, TraceError, OSError) as error:
        print(f"trainbeacon profile: {printable(str(error), 1000)}", file=sys.stderr)
        return 1


def _problem(arguments: argparse.Namespace) -> str:
    from trainbeacon.recorder.probes.profile_files import MOST_SECONDS, MOST_STEPS

    if not 1 <= arguments.steps <= MOST_STEPS:
        return f"--steps {arguments.steps} is not possible: give 1 to {MOST_STEPS}"
    if not 0 < arguments.seconds <= MOST_SECONDS:
        return f"--seconds {arguments.seconds:g} is not possible: give more than 0, at most {MOST_SECONDS:g}"
    if arguments.nsys and shutil.which("nsys") is None:
        return "--nsys needs Nsight Systems, and no nsys is on the PATH: leave it out for torch.profiler"
    return ""


def _take(arguments: argparse.Namespace) -> int:
    from trainbeacon.profiling import ask
    from trainbeacon.profiling.trace import read
    from trainbeacon.recorder.probes.profile_files import Request

    asked = ask.find(_directories(arguments), arguments.run_name, arguments.rank)
    request = Request.make(arguments.steps, arguments.seconds, "nsys" if arguments.nsys else "torch")
    answer = ask.take(asked, request, lambda answer: _progress(asked, request, answer))
    who = f"rank {asked.box.identity.rank} of {asked.box.identity.run}"
    steps = f"{who}, steps {answer.first_step} to {answer.last_step}"
    if not answer.trace:
        print(f"{steps}: marked for Nsight Systems (nsys profile --capture-range=cudaProfilerApi)")
        return 0
    path = ask.fetch(asked, answer, arguments.output)
    profile = read(path)
    status = _show(arguments, profile, f"{steps}: ", path)
    if not arguments.json:
        print(f"\ntrace: {path} (open it in https://ui.perfetto.dev, or in TensorBoard's profiler)")
    return status


def _progress(asked: Asked, request: Request, answer: Answer) -> None:
    from trainbeacon.identity import printable

    identity = asked.box.identity
    words = {
        "waiting": f"asked rank {identity.rank} of {identity.run} (pid {identity.pid})",
        "recording": f"recording {request.steps} steps, {request.seconds:g} s at most",
        "writing": "the rank trains on and writes the trace",
    }
    if answer.state in words:
        print(printable(words[answer.state], 200), file=sys.stderr)


def _show(arguments: argparse.Namespace, profile: Profile, who: str, path: str = "") -> int:
    from trainbeacon.identity import printable
    from trainbeacon.profiling import text

    rows = max(1, arguments.rows)
    if arguments.json:
        found = {**text.document(profile, rows), "trace": path or arguments.read}
        print(json.dumps(found, indent=1))
    else:
        print(printable(f"{who}{text.verdict(profile)}", 1000))
        print()
        for line in text.lines(profile, rows):
            print(line)
    return 0 if profile.seconds > 0 else 1


def _directories(arguments: argparse.Namespace) -> list[str]:
    from trainbeacon.blackbox.directory import default_directory
    from trainbeacon.config.settings import Config
    from trainbeacon.stack.discover import served

    if arguments.directory:
        return [arguments.directory]
    named = Config.load({}).directory
    return [named or default_directory(), *(each.directory for each in served())]
