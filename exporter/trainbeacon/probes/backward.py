"""Seeing a backward pass begin and end. A file of its own: `torch.compile` must not trace it (`graphs`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def announced(
    backward: Callable[..., Any], begins: Callable[[], Any], ends: Callable[[], None]
) -> Callable[..., Any]:
    """`backward`, with `begins` called before it and, if that said so, `ends` after it. Neither may raise."""

    def announcing(*args: Any, **keywords: Any) -> Any:
        if not begins():
            return backward(*args, **keywords)
        try:
            return backward(*args, **keywords)
        finally:
            ends()

    return announcing


def looked_at(backward: Callable[..., Any], look: Callable[[Any], None]) -> Callable[..., Any]:
    """`backward`, with `look` given what it goes back from, before it does. `look` must not raise."""

    def looking(*args: Any, **keywords: Any) -> Any:
        look(args[0] if args else keywords.get("tensors"))
        return backward(*args, **keywords)

    return looking
