#!/usr/bin/env python3
"""Remove the target files of exporters that are no more.

    clean-targets.py /shared/trainbeacon/targets                 from cron, for nodes that were lost
    clean-targets.py /shared/trainbeacon/targets --here --user 1000   from an epilog, on the node itself

An exporter removes its own file when it ends; one that was killed cannot. From afar a file goes if it is
older than --minutes and nobody answers at its address. On the node itself (--here) it goes at once if the
node refuses a connection: an exporter that is only slow still listens. Needs nothing but Python.
"""

import argparse
import json
import os
import re
import socket
import stat
import sys
import time


def is_served(path, here):
    """Whether anybody listens at an address of the file; a file that cannot be read says yes."""
    try:
        # Anybody may write into the folder: no link is followed, and no pipe waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            groups = json.loads(file.read(65536))
        targets = [target for group in groups for target in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return any(_listens(target, here) for target in targets)


def _listens(target, here):
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return True
    except ConnectionRefusedError:
        return False
    except (OSError, ValueError):
        return here  # too busy to answer, or a name that is not known for now


def candidates(folder, arguments):
    """Our files that are old enough, of one host and one user where those are asked for."""
    host = re.escape(socket.gethostname()) if arguments.here else ".+"
    ours = re.compile(rf"trainbeacon-{host}-\d+\.json")
    for entry in os.scandir(folder):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # its exporter has just removed it
        if not ours.fullmatch(entry.name) or not stat.S_ISREG(status.st_mode):
            continue
        if arguments.user is not None and status.st_uid != arguments.user:
            continue
        if arguments.here or time.time() - status.st_mtime > arguments.minutes * 60:
            yield entry.path


def main():
    """Remove and name what is over; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--minutes", type=float, default=10.0, help="age of a file that may go (default: 10)")
    parser.add_argument("--here", action="store_true", help="only files of this host, whatever their age")
    parser.add_argument("--user", type=int, metavar="UID", help="only files of this user")
    arguments = parser.parse_args()
    status = 0
    try:
        paths = list(candidates(arguments.folder, arguments))
    except OSError as error:
        print(f"{arguments.folder}: {error.strerror}", file=sys.stderr)
        return 1
    for path in paths:
        if is_served(path, arguments.here):
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
