"""`trainbeacon install-autostart`: have `TRAINBEACON=1` record any script of this Python."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig

NAME = "install-autostart"
HELP = "write a site hook, so that TRAINBEACON=1 records any script of this Python"

#: Read by Python at every start: costs one look at the environment where the variable is not set.
_HOOK = (
    'import os; os.environ.get("TRAINBEACON") and '
    '__import__("trainbeacon.integrations.auto", fromlist=["auto"]).install_if_wanted()\n'
)
_FILE = "trainbeacon-autostart.pth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--remove", action="store_true", help="take the hook away again")
    parser.add_argument(
        "--directory", metavar="DIR", help="the site-packages to write to (default: of this Python)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write or remove the hook."""
    path = os.path.join(arguments.directory or sysconfig.get_path("purelib"), _FILE)
    try:
        if arguments.remove:
            if os.path.exists(path):
                os.unlink(path)
            print(f"removed {path}")
            return 0
        with open(path, "w", encoding="ascii") as file:
            file.write(_HOOK)
    except OSError as error:
        print(
            f"trainbeacon install-autostart: {path}: {error.strerror}: "
            "use a virtual environment of your own, or `trainbeacon run`, which needs no hook",
            file=sys.stderr,
        )
        return 1
    print(f"wrote {path}\nTRAINBEACON=1 python train.py is recorded from now on")
    return 0
