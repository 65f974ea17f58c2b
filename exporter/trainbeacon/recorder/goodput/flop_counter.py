"""Counting FLOPs around calls."""

from __future__ import annotations

import sys
from typing import Any


class Counter:
    """torch's own counter, switched on for the length of a call.

    While it is on, functions that were compiled run as they are written: the compiler refuses to work
    under a dispatch mode, and one with `fullgraph=True` would raise.

    Attributes:
        total: FLOPs counted so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._mode: Any = None
        self._stance: Any = None

    def begin(self) -> None:
        """Count from here on. Does nothing while it counts."""
        if self._mode is not None:
            return
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stance: Any = torch.compiler.set_stance("force_eager")
            stance.__enter__()
            self._stance = stance
        mode: Any = FlopCounterMode(display=False)
        mode.__enter__()
        self._mode = mode

    def end(self) -> None:
        """Count no more. Does nothing while it does not count."""
        mode, self._mode = self._mode, None
        stance, self._stance = self._stance, None
        if mode is not None:
            mode.__exit__(None, None, None)
            self.total += mode.get_total_flops()
        if stance is not None:
            stance.__exit__(None, None, None)
