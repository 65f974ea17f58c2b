"""`trainbeacon up`: Prometheus and Alertmanager for every run of this user on this machine."""

from __future__ import annotations

import argparse
import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from trainbeacon.cli.argument_types import port

if TYPE_CHECKING:
    from trainbeacon.stack.up.state import Note, State
    from trainbeacon.stack.up.supervisor import Options

NAME = "up"
HELP = "have Prometheus and Alertmanager watch every run of yours on this machine"

_SERVERS = ("prometheus", "alertmanager", "grafana")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--notify",
        action="append",
        default=[],
        metavar="URL",
        help="send messages there: an Apprise address (docs/notify.md); may be given several times",
    )
    parser.add_argument(
        "--notify-finished", action="store_true", help="send a message also when a run has finished"
    )
    parser.add_argument("--open", action="store_true", help="open Grafana, else Prometheus, in a browser")
    parser.add_argument(
        "--interval", type=_interval, default=5.0, metavar="S", help="seconds between two scrapes (default 5)"
    )
    parser.add_argument(
        "--keep", type=_time, default="15d", metavar="TIME", help="keep data for so long (default 15d)"
    )
    parser.add_argument(
        "--keep-size", type=_size, default="2GB", metavar="SIZE", help="and at most so much (default 2GB)"
    )
    for name in _SERVERS:
        parser.add_argument(
            f"--{name}-port", type=port, metavar="PORT", help="default: the usual one if it is free"
        )
    parser.add_argument("--foreground", action="store_true", help="stay here until Ctrl-C")


def run(arguments: argparse.Namespace) -> int:
    """Bring it up, or join what is up; returns the exit status."""
    from trainbeacon.stack.stack import StackError
    from trainbeacon.stack.up import client
    from trainbeacon.stack.up.state import State

    state = State()
    try:
        _check_addresses(arguments.notify)
        if state.is_running and not arguments.foreground:
            return _join(state, arguments)
        client.provide(_say)
        if arguments.notify:
            state.make()
            state.write_addresses(list(dict.fromkeys(arguments.notify)))
        if arguments.foreground:
            return _foreground(state, _options(arguments))
        note = client.start(state, _options(arguments))
    except (client.UpError, StackError, OSError) as error:
        print(f"trainbeacon up: {error}", file=sys.stderr)
        return 2
    _show(note, state, arguments.open)
    return 0


def _foreground(state: State, options: Options) -> int:
    from trainbeacon.stack.up.supervisor import Supervisor

    return Supervisor(state, options, _say).run()


def _join(state: State, arguments: argparse.Namespace) -> int:
    from trainbeacon.stack import processes
    from trainbeacon.stack.up import client

    processes.wait_until(lambda: state.read_note() is not None or not state.is_running, 120)
    note = state.read_note()
    if note is None:
        raise client.UpError("it was ending: try again")
    new = client.join(state, arguments.notify)
    print(f"It is up already (process {note.pid}): joined, nothing was started.")
    if new:
        print(f"Messages go to {len(new)} more address(es) from now on.")
    if _options(arguments) != _options(_defaults()):
        print("Its other options stay as they were: `trainbeacon down` first to change them.")
    _show(note, state, arguments.open)
    return 0


def _defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([])


def _options(arguments: argparse.Namespace) -> Options:
    from trainbeacon.stack.up.supervisor import Options

    ports = ((name, getattr(arguments, f"{name}_port")) for name in _SERVERS)
    return Options(
        interval=arguments.interval,
        keep=arguments.keep,
        keep_size=arguments.keep_size,
        ports=tuple((name, port) for name, port in ports if port),
        finished=arguments.notify_finished,
    )


def _check_addresses(addresses: list[str]) -> None:
    """Refuse what no service would take, before anything is started. Raises UpError."""
    from trainbeacon.stack.up.client import UpError

    if not addresses:
        return
    if find_spec("apprise") is None:
        raise UpError("--notify needs the package apprise: pip install 'trainbeacon[notify]'")
    import apprise

    for number, address in enumerate(addresses, 1):
        if "\n" in address or apprise.Apprise.instantiate(address) is None:
            scheme = address.partition("://")[0][:20]
            raise UpError(
                f"--notify, address {number} ({scheme}://...): no service of Apprise takes it; "
                "docs/notify.md has examples"
            )


def _show(note: Note, state: State, browser: bool) -> None:
    for name in ("grafana", "prometheus", "alertmanager"):
        if name in note.urls:
            print(f"{name.capitalize():<14}{note.urls[name]}")
    count = len(state.addresses())
    print(f"{'Messages':<14}{f'to {count} address(es)' if count else 'to nobody: --notify URL'}")
    print(f"{'Data':<14}{state.folder}")
    print("Every run of yours on this machine is found by itself. trainbeacon top, status, down.")
    if browser:
        import webbrowser

        url = note.urls.get("grafana") or note.urls["prometheus"]
        if not webbrowser.open(url):
            print(f"--open: no browser could be started here; the page is {url}", file=sys.stderr)


def _say(text: str) -> None:
    print(text, flush=True)


def _interval(text: str) -> float:
    if not 1 <= float(text) <= 300:
        raise argparse.ArgumentTypeError("must be between 1 and 300")
    return float(text)


def _time(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[hdwy]", text):
        raise argparse.ArgumentTypeError("must be a number with h, d, w or y: 15d")
    return text


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[MGT]B", text):
        raise argparse.ArgumentTypeError("must be a number with MB, GB or TB: 2GB")
    return text
