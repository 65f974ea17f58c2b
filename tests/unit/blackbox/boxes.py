"""What the tests of the black box share: boxes as bytes, and real processes that write one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import Box, BoxDirectory, BoxFile
from trainbeacon.blackbox.writer import Writer

#: A start so long ago that a box without a lock is dead at once: no grace to wait for.
LONG_AGO = 1_000_000_000.0

PRELUDE = """
import os, signal, sys, time
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.writer import Writer
LONG_AGO = 1_000_000_000.0
def ready(*words):
    print("ready", *words, flush=True)
def create(directory, start=LONG_AGO):
    return Writer.create(directory, {"run": "demo", "rank": 0, "start": start, "pid": os.getpid()})
"""


class Bytes:
    """A box that lies in memory, as a reader sees it."""

    def __init__(self, data: bytes, held: bool = True) -> None:
        self.data = data
        self.held = held

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def lock_held(self) -> bool:
        return self.held


def identity(**changes: Any) -> Mapping[str, object]:
    """Who writes the box of a test."""
    return {"run": "demo", "rank": 0, "start": LONG_AGO, "pid": 1, **changes}


def bytes_of(writer: Writer) -> bytes:
    """Every byte of a box."""
    return writer.read(0, layout.SIZE)


def look(writer: Writer, *, ring: bool = False, held: bool = True) -> Box:
    """The box as a reader sees it, by its bytes alone."""
    return BoxFile("test.box").read(Bytes(bytes_of(writer), held), ring=ring)


@contextlib.contextmanager
def boxes_in(path: Path | str) -> Iterator[BoxDirectory]:
    """The reader of a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield BoxDirectory(descriptor)
    finally:
        os.close(descriptor)


def only_box(path: Path | str, *, ring: bool = False) -> Box:
    """The one box of a directory, looked at anew."""
    with boxes_in(path) as boxes:
        [box] = boxes.scan(ring=ring)
        assert boxes.invalid == 0
        return box


@contextlib.contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs PRELUDE and `code`, has said `ready`, and is ended afterwards."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            assert child.stdout.readline().startswith("ready")
            yield child
        finally:
            child.kill()


def tell(child: subprocess.Popen[str], word: str = "go") -> str:
    """Let the process go on, and return its next line."""
    assert child.stdin
    assert child.stdout
    child.stdin.write(word + "\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    """Wait until the condition holds; fails after that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come to hold"
        time.sleep(0.01)
