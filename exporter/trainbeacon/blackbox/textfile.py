"""A text beside a black box, replaced whole: the user's own metrics on their way to the exporter.

`<name of the box>.prom`, in the classic text format of Prometheus. Like a box, it may hold anything.
"""

from __future__ import annotations

import os

from . import files
from .directory import BOX_SUFFIX

SUFFIX = f"{BOX_SUFFIX}.prom"
MOST_BYTES = 64 * 1024
#: Series of one rank's file.
MOST_SERIES = 200


def beside(box: str) -> str:
    """Name or path of the text that belongs to a box."""
    return f"{box.removesuffix(BOX_SUFFIX)}{SUFFIX}"


def read(folder: int, name: str) -> bytes:
    """The text. Raises OSError, and ValueError for what is too long to be one of ours."""
    descriptor = files.open_regular(folder, name)
    try:
        text = os.pread(descriptor, MOST_BYTES + 1, 0)
    finally:
        os.close(descriptor)
    if len(text) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES} bytes")
    return text
