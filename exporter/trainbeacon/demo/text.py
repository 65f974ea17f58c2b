"""Real text that every machine has: the sources of Python's standard library, as windows of characters."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

#: What the model can tell apart: printable ASCII, the line end, and one sign for everything else.
ALPHABET = bytes(range(32, 127)) + b"\n"
UNKNOWN = len(ALPHABET)
VOCABULARY = len(ALPHABET) + 1

_VALIDATION_EVERY = 10


def source_files(limit: int = 2_000_000, folder: Path | None = None) -> list[Path]:
    """Modules of the standard library in order of their names, up to `limit` bytes altogether.

    The same installation gives the same files, on every rank, without asking the other ranks.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    chosen, total = [], 0
    for path in sorted(folder.glob("*.py")):
        size = path.stat().st_size
        if total + size <= limit:
            chosen.append(path)
            total += size
    if not chosen:
        raise FileNotFoundError(f"no Python sources in {folder}: install Python's standard library as files")
    return chosen


def split(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Training and validation files: each tenth file is kept from training, as a whole."""
    training: list[Path] = []
    validation: list[Path] = []
    for number, path in enumerate(files):
        (validation if number % _VALIDATION_EVERY == 0 else training).append(path)
    return training, validation


def encode(text: bytes) -> Tensor:
    """The characters of a text as numbers below `VOCABULARY`, one byte each."""
    return torch.frombuffer(bytearray(text.translate(_TABLE)), dtype=torch.uint8)


_TABLE = bytes(ALPHABET.index(byte) if byte in ALPHABET else UNKNOWN for byte in range(256))


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Consecutive windows over the joined files: (characters, the character after each)."""

    def __init__(self, files: Iterable[Path], context: int) -> None:
        self._text = encode(b"\n".join(path.read_bytes() for path in files))
        self._context = context

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self._context
        window = self._text[start : start + self._context + 1].long()
        return window[:-1], window[1:]
