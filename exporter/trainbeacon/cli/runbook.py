"""`trainbeacon runbook`: what an alert means, how to look into it, and what to do."""

from __future__ import annotations

import argparse
import sys

NAME = "runbook"
HELP = "print the runbook of an alert, or list them all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("name", metavar="ALERT", nargs="?", help="name of the alert, as TrainingStalled")


def run(arguments: argparse.Namespace) -> int:
    """Print one or list all; 2 if there is no such runbook, or none at all."""
    from trainbeacon.notify.runbooks import Runbooks, first_sentence
    from trainbeacon.stack.bundle import runbooks_dir

    try:
        texts = Runbooks(runbooks_dir()).texts
    except OSError as error:
        print(f"trainbeacon runbook: {error}", file=sys.stderr)
        return 2
    if arguments.name is None:
        width = max(map(len, texts))
        for name, text in texts.items():
            print(f"{name:{width}}  {first_sentence(text)}")
        return 0
    found = _found(arguments.name, texts)
    if found is None:
        print(
            f"trainbeacon runbook: there is none for {arguments.name}{_near(arguments.name, texts)}",
            file=sys.stderr,
        )
        return 2
    print(texts[found].strip())
    return 0


def _found(name: str, texts: dict[str, str]) -> str | None:
    """A name in any case, with or without what all begin with."""
    wanted = name.removesuffix(".md").lower()
    forms = (wanted, f"training{wanted}", f"trainbeacon{wanted}")
    return next((each for form in forms for each in texts if each.lower() == form), None)


def _near(name: str, texts: dict[str, str]) -> str:
    from difflib import get_close_matches

    short = {each.lower(): each for each in texts}
    short |= {each.lower().removeprefix("training").removeprefix("trainbeacon"): each for each in texts}
    wanted = name.lower().removeprefix("training").removeprefix("trainbeacon")
    part = [each for form, each in short.items() if wanted and wanted in form]
    near = [short[form] for form in get_close_matches(wanted, list(short), n=3, cutoff=0.5)]
    named = list(dict.fromkeys([*part, *near]))[:5]
    return f"; did you mean {', '.join(named)}?" if named else "; `trainbeacon runbook` lists them all"
