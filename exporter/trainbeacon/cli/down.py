"""`trainbeacon down`: end what `trainbeacon up` has started."""

from __future__ import annotations

import argparse
import sys

NAME = "down"
HELP = "end what `trainbeacon up` has started; its data is kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--purge", action="store_true", help="remove its data as well")


def run(arguments: argparse.Namespace) -> int:
    """End it; 0 also where nothing was up."""
    from trainbeacon.stack.up import client
    from trainbeacon.stack.up.state import State

    state = State()
    try:
        was_up = client.stop(state)
    except client.UpError as error:
        print(f"trainbeacon down: {error}", file=sys.stderr)
        return 2
    print("ended" if was_up else "nothing was up")
    if arguments.purge:
        state.purge()
    elif state.folder.is_dir():
        print(f"data kept in {state.folder} (--purge removes it)")
    return 0
