"""The black box that a test's rank writes."""

from __future__ import annotations

import os
from pathlib import Path

from trainbeacon.blackbox.box import Box
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory


def boxes_of(folder: Path) -> list[Box]:
    """The boxes of a folder."""
    descriptor = open_directory(str(folder))
    try:
        return BoxDirectory(descriptor).scan()
    finally:
        os.close(descriptor)


def only_box(folder: Path) -> Box:
    """The one box of a folder, with its ring of steps."""
    descriptor = open_directory(str(folder))
    try:
        (found,) = BoxDirectory(descriptor).scan(ring=True)
        return found
    finally:
        os.close(descriptor)
