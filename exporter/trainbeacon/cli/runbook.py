"""`trainbeacon runbook`: what an alert means, how to look into it, and what to do."""

from __future__ import annotations

import argparse
import re
import shlex
import sys

NAME = "runbook"
HELP = "print the runbook of an alert, or list them all"
#: What a message names, and queries and commands of a runbook call in capitals.
GIVEN = ("run", "rank", "instance", "gpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("name", metavar="ALERT", nargs="?", help="name of the alert, as TrainingStalled")
    for given in GIVEN:
        parser.add_argument(
            f"--{given}",
            dest=f"of_{given}",
            metavar=given.upper(),
            help=f"what the message names: fills in {given.upper()}",
        )


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
    values = {given.upper(): getattr(arguments, f"of_{given}") for given in GIVEN}
    print(_filled(texts[found].strip(), {name: value for name, value in values.items() if value is not None}))
    return 0


def _filled(text: str, values: dict[str, str]) -> str:
    """The text with these names replaced where it is code: as a quoted label, or as a shell's word."""

    def code(found: re.Match[str]) -> str:
        span = found[0]
        for name, value in values.items():
            label = value.replace("\\", "\\\\").replace('"', '\\"')
            span = span.replace(f'"{name}"', f'"{label}"')
            word = shlex.quote(value).replace("\\", "\\\\")
            span = re.sub(rf"(?<=[ =]){name}\b", word, span)
        return span

    return re.sub(r"`[^`]+`|^ {4,}\S.*$", code, text, flags=re.MULTILINE)


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
