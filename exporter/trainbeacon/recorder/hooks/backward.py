"""Seeing a backward pass begin and end. A file of its own: `torch.compile` must not trace it (`graphs`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def announced(
    backward: Callable[..., Any], begins: Callable[[Any], Any], ends: Callable[[], None]
) -> Callable[..., Any]:
    """`backward`, with `begins` called before it and, if that said so, `ends` after it. Neither may raise.

    `begins` is given what the pass goes back from.
    """

    def announcing(*args: Any, **keywords: Any) -> Any:
        if not begins(args[0] if args else keywords.get("tensors")):
            return backward(*args, **keywords)
        try:
            return backward(*args, **keywords)
        finally:
            ends()

    return announcing
