"""What all frameworks on torch pass in a step: batches of loaders, losses, scaled losses.

Everything is seen in the training thread, changes nothing that passes by, and reads no device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainbeacon.recorder.api.beacon import Beacon
from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.timeline import DATA_WAIT, OTHER
from trainbeacon.recorder.device.scalars import batch_size

Stop = Callable[[], None]


class LoaderWaits:
    """The waiting for every `torch.utils.data.DataLoader` of the training thread, outside of evaluations.

    Args:
        beacon: whose phases they are.
        fetched: takes the samples of each batch.
    """

    def __init__(self, beacon: Beacon, fetched: Callable[[int], None] | None = None) -> None:
        self._beacon = beacon
        self._fetched = fetched
        self._thread = threading.get_ident()
        self._inside = False

    def install(self) -> Stop:
        """Observe the iterators of torch's loaders; returns what ends that."""
        from torch.utils.data import dataloader

        return observe(dataloader._BaseDataLoaderIter, "__next__", self._begins)

    def _begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        beacon = self._beacon
        outside = not beacon.recording or threading.get_ident() != self._thread
        if outside or self._inside or beacon.timeline.declared is not None:
            return None
        self._inside = True
        beacon.timeline.observe(DATA_WAIT)
        return self._ends

    def _ends(self, batch: Any, error: BaseException | None) -> None:
        self._inside = False
        self._beacon.timeline.observe(OTHER)
        if self._fetched is not None and error is None:
            self._fetched(self._beacon.recorder.guard("value", batch_size, batch) or 0)


def observe_batches(fetched: Callable[[int], None]) -> Stop:
    """The samples of each batch of torch's loaders, for who has no beacon yet; returns what ends that."""
    from torch.utils.data import dataloader

    thread = threading.get_ident()

    def ended(batch: Any, error: BaseException | None) -> None:
        if error is None:
            with contextlib.suppress(Exception):  # what the samples are is the script's own affair
                fetched(batch_size(batch) or 0)

    def begins(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        return ended if threading.get_ident() == thread else None

    return observe(dataloader._BaseDataLoaderIter, "__next__", begins)


class StepLoss:
    """The loss of a step: the number that its one backward pass goes back from.

    Where a step has several backward passes (gradient accumulation, several losses) it is not known what
    the script calls its loss, and None is given.

    Args:
        beacon: which records, on whose thread.
        trained: called at each backward pass.
    """

    def __init__(self, beacon: Beacon, trained: Callable[[], None] | None = None) -> None:
        self._beacon = beacon
        self._trained = trained
        self._thread = threading.get_ident()
        self._scaled: tuple[Any, Any] = None, None  # the last scaled loss, and what it was
        self._root: Any = None
        self.passes = 0

    def install(self) -> list[Stop]:
        """Observe `backward()` and the scaling of losses before it; returns what ends that."""
        import torch

        return [
            observe(torch.autograd, "backward", self.begins),
            observe(torch.amp.GradScaler, "scale", self._scale_begins),
        ]

    def take(self) -> Any:
        """The loss since the last call, a detached tensor of one element, or None where it is not known."""
        passes, root = self.passes, self._root
        self.passes, self._root = 0, None
        return root if passes == 1 else None

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread and self._beacon.recording

    def begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """A backward pass begins, with these arguments of `torch.autograd.backward`."""
        if self._is_here():
            root = args[0] if args else keywords.get("tensors")
            self._beacon.recorder.guard("hooks", self._saw, root)

    def _saw(self, root: Any) -> None:
        if isinstance(root, (tuple, list)):
            root = root[0] if len(root) == 1 else None
        self.passes += 1
        scaled, loss = self._scaled
        self._scaled = None, None
        if hasattr(root, "numel") and root.numel() == 1:
            self._root = loss if scaled is root else root.detach()
        if self._trained is not None:
            self._trained()

    def _scale_begins(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        loss: Any = args[1] if len(args) > 1 else keywords.get("outputs")
        if not self._is_here() or not hasattr(loss, "detach"):
            return None

        def ends(result: Any, error: BaseException | None) -> None:
            if error is None:
                self._scaled = result, loss.detach()

        return ends
