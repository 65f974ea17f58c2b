"""TensorBoard's event files: where they are, and the numbers in them, one record in memory at a time.

A file is a chain of records: the length and its checksum, an event as protocol buffer, the event's
checksum. The checksums are worked out by a library in C, because TensorBoard's own reader without TensorFlow
does that in Python, at less than a megabyte a second.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
#: What TensorBoard's scalars are marked with, where they are tensors (TensorFlow 2, Keras).
_SCALARS = "scalars"


class MissingPackageError(ImportError):
    """The extra that reads event files is not installed."""

    def __init__(self, error: ImportError) -> None:
        super().__init__(f"reading event files needs {error.name}: pip install 'trainbeacon[tensorboard]'")


@dataclass(frozen=True)
class EventFile:
    """One event file. `run` is its folder below the one of the search, and empty for that itself."""

    path: str
    run: str
    size: int


@dataclass(frozen=True)
class Number:
    """One scalar that a script has written: when, at which step, under which tag."""

    time: float
    step: int
    tag: str
    value: float


@dataclass
class Reading:
    """What became of one file, up to date while it is read."""

    bytes: int = 0
    events: int = 0
    damaged: int = 0
    cut_at: int | None = None


def find(folder: str) -> list[EventFile]:
    """All event files under a folder, through symbolic links, each once, in the order of their names.

    Raises:
        NotADirectoryError, FileNotFoundError: no such folder.
    """
    with os.scandir(folder):
        pass
    found, seen = [], set[str]()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        run = os.path.relpath(parent, folder)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if "tfevents" in name and os.path.isfile(path):
                found.append(EventFile(path, "" if run == "." else run, os.path.getsize(path)))
    return found


def numbers(file: EventFile, reading: Reading) -> Iterator[Number]:
    """The scalars of a file in its order, as far as it can be read.

    A record whose content is damaged is left out; where the chain itself is broken, or the file ends
    within a record (the process was killed, or still writes), the reading ends, and `reading` says where.

    Raises:
        OSError: the file cannot be opened or read.
        MissingPackageError: the extra is not installed.
    """
    decode, DecodeError = _decoder()  # noqa: N806 - a class
    scalars: set[str] = set()  # only the first value of a tag says what the tag is
    with open(file.path, "rb") as stream:
        for record in _records(stream, file.size, reading):
            try:
                event = decode(record)
            except DecodeError:
                reading.damaged += 1
                continue
            reading.events += 1
            for value in event.summary.value:
                number = _scalar(value, scalars)
                if number is not None:
                    yield Number(event.wall_time, event.step, value.tag, number)


def _records(stream: BinaryIO, size: int, reading: Reading) -> Iterator[bytes]:
    import google_crc32c

    def matches(content: bytes, masked: int) -> bool:
        checksum: int = google_crc32c.value(content)
        return masked == ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF

    while header := stream.read(_HEADER.size):
        reading.cut_at = reading.bytes  # until this record is whole
        if len(header) < _HEADER.size:
            return
        length, checksum = _HEADER.unpack(header)
        if not matches(header[:8], checksum) or length > size:
            return
        content, tail = stream.read(length), stream.read(_CHECKSUM.size)
        if len(content) < length or len(tail) < _CHECKSUM.size:
            return
        reading.cut_at = None
        reading.bytes += _HEADER.size + length + _CHECKSUM.size
        if matches(content, _CHECKSUM.unpack(tail)[0]):
            yield content
        else:
            reading.damaged += 1


def _decoder() -> tuple[Callable[[bytes], Any], type[Exception]]:
    """What makes an event of a record, and what it raises for one that is damaged."""
    try:
        import google_crc32c  # noqa: F401 - asked for before the first file
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboard.compat.proto import event_pb2
    except ImportError as error:
        raise MissingPackageError(error) from error
    return event_pb2.Event.FromString, DecodeError


def _scalar(value: Any, scalars: set[str]) -> float | None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor":
        return None
    plugin = value.metadata.plugin_data.plugin_name
    if plugin == _SCALARS:
        scalars.add(value.tag)
    if value.tag not in scalars:
        return None
    from tensorboard.util.tensor_util import make_ndarray

    array = make_ndarray(value.tensor)
    return float(array.reshape(-1)[0]) if array.size == 1 else None
