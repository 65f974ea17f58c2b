#!/usr/bin/env python3
"""Remove the target files of exporters that are no more: after a node was lost, or from cron and epilog.

    clean-targets.py /shared/trainbeacon/targets [--minutes 10] [--host HOST]

An exporter removes its own file when it ends; one that was killed cannot. A file goes if it is older than so
many minutes and nobody listens at its address. Needs nothing but Python.
"""

import argparse
import json
import os
import socket
import sys
import time


def is_served(path):
    """Whether anybody listens at an address of the file; a file that cannot be read says yes."""
    try:
        with open(path) as file:
            targets = [target for group in json.load(file) for target in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return any(_listens(target) for target in targets)


def _listens(target):
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return True
    except (OSError, ValueError):
        return False


def candidates(folder, host, minutes):
    """Our files that are old enough, of one host if one is named."""
    begins = f"trainbeacon-{host}-" if host else "trainbeacon-"
    for entry in os.scandir(folder):
        ours = entry.name.startswith(begins) and entry.name.endswith(".json")
        if ours and time.time() - entry.stat().st_mtime > minutes * 60:
            yield entry.path


def main():
    """Remove and name what is over; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--host", default="")
    arguments = parser.parse_args()
    status = 0
    for path in candidates(arguments.folder, arguments.host, arguments.minutes):
        if is_served(path):
            continue
        try:
            os.unlink(path)
            print(f"removed {path}")
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
