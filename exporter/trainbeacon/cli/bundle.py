"""`trainbeacon bundle`: rules, routes, dashboards and chart out of the installed package."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

NAME = "bundle"
HELP = "write out the rules, routes, dashboards and chart that come with the package"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to write; made if it is not there")
    parser.add_argument("--force", action="store_true", help="overwrite files that were changed")
    parser.add_argument(
        "--runbook-url",
        metavar="URL",
        help="where the runbooks that alerts link to are, as http://trainbeacon-notify:9798/runbooks",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write everything or nothing; 1 if changed files are in the way, 2 if it cannot be written."""
    from trainbeacon.notify.runbooks import SHIPPED_URL
    from trainbeacon.stack import bundle as shipped

    target: Path = arguments.folder
    url = (arguments.runbook_url or SHIPPED_URL).rstrip("/")
    if not re.fullmatch(r"https?://[^\s\"'<>|]+", url):
        print(
            f"trainbeacon bundle: --runbook-url={url} is not an address of the web. "
            "Give one that people can open, as https://wiki.example.org/runbooks.",
            file=sys.stderr,
        )
        return 2
    try:
        bundle = shipped.bundle_dir()
        in_the_way = shipped.differing(bundle, target, url)
        if in_the_way and not arguments.force:
            _refuse(target, in_the_way)
            return 1
        written = shipped.write_out(bundle, target, url)
    except OSError as error:
        print(f"trainbeacon bundle: {error}", file=sys.stderr)
        return 2
    unchanged = sum(1 for _ in shipped.files(bundle)) - len(written)
    print(f"{len(written)} files written to {target}, {unchanged} were there already\n")
    for part in shipped.parts(bundle):
        print(part.folder)
        print(textwrap.indent(part.next_step.format(at=target / part.folder), "    "))
    return 0


def _refuse(target: Path, in_the_way: list[Path]) -> None:
    print("trainbeacon bundle: nothing was written, because these files differ from ours:", file=sys.stderr)
    for file in in_the_way:
        print(f"    {target / file}", file=sys.stderr)
    print("Give another folder, or --force to overwrite them.", file=sys.stderr)
