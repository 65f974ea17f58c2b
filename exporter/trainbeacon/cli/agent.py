"""`trainbeacon agent`: the exporter as a program of its own."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainbeacon.exporter.service import Exporter

NAME = "agent"
HELP = "serve the black boxes of this node on /metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is left out comes from TRAINBEACON_* variables or the file."""
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings")
    parser.add_argument("--directory", metavar="DIR", help="folder of the black boxes")
    parser.add_argument("--web-config", metavar="FILE", help="web config file: TLS and passwords")
    parser.add_argument("--host", help="address to listen on (default: every interface)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 9797; 0 takes any free one)")
    parser.add_argument(
        "--linger", type=float, metavar="SECONDS", help="serve the end for that long (default: 60)"
    )
    parser.add_argument(
        "--retention", type=float, metavar="SECONDS", help="keep dead boxes for that long (default: 3600)"
    )
    parser.add_argument("--sd-file", metavar="FILE", help="write the address here for file_sd_configs")
    parser.add_argument(
        "--sd-dir", metavar="DIR", help="the same, under a name of its own in a shared folder"
    )
    parser.add_argument("--advertise", metavar="HOST", help="host name written into discovery files")
    parser.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="on SIGTERM serve on for so long at most, until two scrapes saw the end (default: 30)",
    )
    parser.add_argument(
        "--remove-directory",
        action="store_true",
        help="at the end remove the folder of the boxes with all in it: it is one job's",
    )
    parser.add_argument("--no-gpu", action="store_true", help="do not read the GPUs through NVML")
    parser.add_argument("--started-by-rank", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; started by a rank, until the linger after the last live rank is over."""
    from trainbeacon.blackbox.directory import DirectoryError, open_directory
    from trainbeacon.blackbox.election import exporter_is_there, read_note
    from trainbeacon.config.settings import Config, ConfigError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        # A rank hands over all that matters; a relative path in its environment would now lead elsewhere.
        config = Config.load(_settings(arguments), environ={} if arguments.started_by_rank else None)
        folder = open_directory(config.directory)
    except (ConfigError, DirectoryError) as error:
        print(f"trainbeacon agent: {error}", file=sys.stderr)
        return 2
    if exporter_is_there(folder):  # before anything heavy is loaded: several ranks may try at once
        note = read_note(folder)
        where = f" at {note.url} (process {note.pid})" if note is not None else ""
        print(f"trainbeacon agent: this directory is served already{where}", file=sys.stderr)
        return 0 if arguments.started_by_rank else 1
    if arguments.remove_directory and config.directory is None:
        print("trainbeacon agent: --remove-directory: name the folder with --directory", file=sys.stderr)
        return 2
    return _serve(config, arguments)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    same = ("config", "directory", "web_config", "host", "port", "sd_file", "sd_dir", "advertise")
    settings = {name: getattr(arguments, name) for name in same}
    settings["linger_seconds"] = arguments.linger
    settings["retention_seconds"] = arguments.retention
    settings["gpu"] = False if arguments.no_gpu else None
    return settings


def _serve(config: Any, arguments: argparse.Namespace) -> int:
    from trainbeacon.blackbox.directory import remove_directory
    from trainbeacon.config.settings import ConfigError
    from trainbeacon.exporter.service import Exporter

    started_by_rank = arguments.started_by_rank
    try:
        exporter = Exporter(config, mode="process" if started_by_rank else "agent")
        if not exporter.start():
            return 0 if started_by_rank else 1
    except ConfigError as error:  # of the web config file
        print(f"trainbeacon agent: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"trainbeacon agent: {error.strerror or error}", file=sys.stderr)
        return 2
    signals = _on_signals(exporter)
    exporter.run(until_idle=started_by_rank)
    if signals == [signal.SIGTERM]:
        exporter.drain(arguments.drain)
    ranks = exporter.living()
    exporter.close()
    if arguments.remove_directory:
        remove_directory(config.directory, ranks)
    return 0


def _on_signals(exporter: Exporter) -> list[int]:
    """SIGINT ends at once; SIGTERM lets the end be scraped first, and at once when it comes again."""
    signals: list[int] = []

    def end(number: int, frame: Any) -> None:
        signals.append(number)
        exporter.stop(at_once=signals != [signal.SIGTERM])

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    return signals
