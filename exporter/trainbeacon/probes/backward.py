"""Seeing a backward pass begin. In a file of its own because `torch.compile` must not trace it (`graphs`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def announced(backward: Callable[..., Any], begins: Callable[[], None]) -> Callable[..., Any]:
    """`backward`, with `begins` called before it. `begins` must not raise."""

    def announcing(*args: Any, **keywords: Any) -> Any:
        begins()
        return backward(*args, **keywords)

    return announcing
