"""A rank's first NaN or infinity: in which step, in which layer, and how that is known."""

from __future__ import annotations

from collections.abc import Callable

#: How a non-finite number was met, the strongest evidence that it arose on this rank first.
KINDS = ("weight", "input", "activation", "loss", "gradient", "reduced")
#: So many finite losses end an episode: the next non-finite number begins another one.
CALM_LOSSES = 100
#: Episodes that are named: each takes a line of the box.
MOST_EPISODES = 50


class FirstNonfinite:
    """Keeps the first step with a non-finite number, and the best evidence of that step.

    Args:
        set_step: called with the step.
        tell: called with layer and kind, the layer empty where it is not known.

    Attributes:
        step: of the first one of the present episode, None while all is well.
        kind, layer: the evidence of that step.
        ignored: kinds that are no fault in this run.
    """

    def __init__(self, set_step: Callable[[float], None], tell: Callable[[str, str], None]) -> None:
        self.step: int | None = None
        self._set_step = set_step
        self._tell = tell
        self.kind, self.layer = "", ""
        self.ignored: frozenset[str] = frozenset()
        self._calm = 0
        self._episodes = 0

    def saw(self, step: int, kind: str, layer: str = "") -> None:
        """A non-finite number was met in that step; a late one may belong to an earlier step."""
        self._calm = 0
        if not self.would_take(step, kind, layer):
            return
        self._episodes += self.step is None
        self.step, self.kind, self.layer = step, kind, layer
        self._set_step(step)
        if self._episodes <= MOST_EPISODES:
            self._tell(layer, kind)

    def would_take(self, step: int, kind: str, layer: str = "?") -> bool:
        """Whether it would be the first, or better evidence of the first."""
        if kind in self.ignored:
            return False
        if self.step is None:
            return True
        return (step, -_strength(kind, layer)) < (self.step, -_strength(self.kind, self.layer))

    def saw_finite_loss(self) -> None:
        """A loss was well, after one or more numbers that were not."""
        self._calm += 1
        if self._calm >= CALM_LOSSES:
            self.step, self._calm = None, 0


def _strength(kind: str, layer: str) -> int:
    return 2 * (len(KINDS) - KINDS.index(kind)) + bool(layer)
