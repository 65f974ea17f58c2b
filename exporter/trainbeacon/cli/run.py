"""`trainbeacon run`: record a training script that says nothing of TrainBeacon."""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "run"
HELP = "run a training script, or a launcher such as torchrun, and record it without a line of code"

_EPILOG = """\
trainbeacon run train.py --lr 3e-4
trainbeacon run -m package.train
trainbeacon run torchrun --nproc-per-node 2 train.py
torchrun --nproc-per-node 2 -m trainbeacon run train.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; everything after the script is the script's."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--run", dest="run_name", metavar="NAME", help="name of the run")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="SETTING=VALUE",
        action="append",
        default=[],
        help="any setting of trainbeacon.start, such as --set owner=nlp; may be repeated",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module")
    parser.add_argument("script", metavar="SCRIPT", help="a Python file, a module with -m, or a launcher")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="what the script is given")


def run(arguments: argparse.Namespace) -> int:
    """Run it; returns the exit status of the script."""
    from trainbeacon.config.environment import export, to_record
    from trainbeacon.config.settings import Config, ConfigError

    settings = dict(pair.partition("=")[::2] for pair in arguments.settings)
    if arguments.run_name:
        settings["run"] = arguments.run_name
    environment = to_record(settings, str(Path(__file__).parents[1] / "integrations/site"))
    try:
        Config.load({}, environ=environment)
    except ConfigError as error:
        print(f"trainbeacon run: {error}", file=sys.stderr)
        return 2
    launcher = (
        None if arguments.module or os.path.isfile(arguments.script) else shutil.which(arguments.script)
    )
    if launcher is not None:
        # The launcher takes our place, and its signals and exit status are its own.
        os.execve(launcher, [arguments.script, *arguments.arguments], environment)  # noqa: S606
    if not arguments.module and not os.path.isfile(arguments.script):
        print(f"trainbeacon run: no file and no command {arguments.script!r}", file=sys.stderr)
        return 2
    export(environment)
    return _run_here(arguments.script, arguments.arguments, module=arguments.module)


def _run_here(script: str, arguments: Sequence[str], *, module: bool) -> int:
    from trainbeacon.integrations.auto import install

    recorder = install()
    sys.argv = [script, *arguments]
    # Where python itself would look first: the folder of the script, or the present one.
    sys.path[0] = os.getcwd() if module else os.path.dirname(os.path.abspath(script))
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except BaseException as error:
        recorder.finish(error)
        raise
    recorder.finish()
    return 0
