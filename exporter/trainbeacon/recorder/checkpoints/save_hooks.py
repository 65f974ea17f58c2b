"""Seeing a checkpoint being saved. In a file of its own: `torch.compile` must not trace it (`graphs`)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Told the end of a saving: what it returned, and what it raised.
Ended = Callable[[Any, "BaseException | None"], None]
#: Told the begin of a saving with its arguments; None if it is none that counts. Must not raise.
Begins = Callable[[Sequence[Any], Mapping[str, Any]], "Ended | None"]


def observed(save: Callable[..., Any], begins: Begins) -> Callable[..., Any]:
    """`save`, with its begin and its end told. What it is given, returns and raises stays the same."""

    @functools.wraps(save)
    def saving(*args: Any, **keywords: Any) -> Any:
        ended = begins(args, keywords)
        if ended is None:
            return save(*args, **keywords)
        try:
            result = save(*args, **keywords)
        except BaseException as error:
            ended(None, error)
            raise
        ended(result, None)
        return result

    return saving


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
