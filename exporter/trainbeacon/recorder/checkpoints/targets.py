"""Where a call of one of torch's functions saves to, by its arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Reads the target from the arguments of a call; None where it is no file with a name.
Target = Callable[[Sequence[Any], Mapping[str, Any]], "str | None"]


def target_of_save(args: Sequence[Any], keywords: Mapping[str, Any]) -> str | None:
    """The path that `torch.save` writes to; None for memory, a pipe or a file without a name."""
    target = keywords.get("f", args[1] if len(args) > 1 else None)
    path = _path(target)
    return _path(getattr(target, "name", None)) if path is None else path


def target_of_distributed(args: Sequence[Any], keywords: Mapping[str, Any]) -> str | None:
    """The folder that `torch.distributed.checkpoint` saves to, as far as it is known."""
    target = keywords.get("checkpoint_id")
    if target is None:
        writer = keywords.get("storage_writer")
        target = getattr(writer, "checkpoint_id", None) or getattr(writer, "path", None)
    return _path(target)


def _path(target: Any) -> str | None:
    path = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
    return path if isinstance(path, str) else None


def absolute(path: str | os.PathLike[str]) -> str:
    """The same place wherever the script goes on; the address of an object store stays as it is.

    Raises:
        OSError: the present folder is gone.
    """
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(text)
