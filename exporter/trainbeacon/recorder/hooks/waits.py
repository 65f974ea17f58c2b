"""Seeing a rank wait for others, at the places where torch itself looks the waiting up.

Nothing is added to the collectives and none is begun: what is timed is the host's own waiting for them.
`Work.wait` is what all of torch's Python waits by (its synchronous collectives, FSDP2, messages from rank
to rank); DTensor and DDP's buffers have one more place each. DDP waits for its gradients in C++, when all of
them are worked out, as the last thing of the backward pass: `EndOfGradients` tells when.
The replacements must be traced by `torch.compile`, to step aside at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import get_ident
from typing import Any

from trainbeacon.recorder.core.patch import Ended, observe
from trainbeacon.recorder.core.recorder import Recorder
from trainbeacon.recorder.hooks.traced import reporting_outside_graphs

#: Of `Work._get_op_type`: SEND, RECV, RECVANYSOURCE.
_PAIRED_OPERATIONS = (12, 13, 14)


def observe_waits(recorder: Recorder) -> list[Callable[[], None]]:
    """Record the calling thread's waiting in the timeline. Returns what ends that."""
    from torch import distributed

    if not distributed.is_available():
        return []
    thread, timeline = get_ident(), recorder.timeline

    def end(paired: bool, result: Any, error: BaseException | None) -> None:
        timeline.end_wait(paired=paired)

    ended = recorder.guarded("hooks", end)
    paired, joint = partial(ended, True), partial(ended, False)

    def begin(args: Sequence[Any], keywords: Mapping[str, Any]) -> Ended | None:
        if get_ident() != thread or not timeline.begin_wait():
            return None
        return paired if args and _is_paired(args[0]) else joint

    places: list[tuple[Any, str]] = [(distributed.Work, "wait")]
    places += [(distributed, "_broadcast_coalesced")]
    places += [(getattr(distributed, "_functional_collectives", None), "wait_tensor")]
    started = recorder.guarded("hooks", begin)
    return [
        observe(owner, name, started, reporting_outside_graphs)
        for owner, name in places
        if hasattr(owner, name)
    ]


class EndOfGradients:
    """Tells when a backward pass has worked out its gradients, before DDP waits for those of other ranks.

    The engine calls what is queued in a pass when its last gradient is there, in the order of queueing. DDP
    queues its waiting once its last bucket is full; here that is done as the pass begins, by a hook on
    the root of the graph, which is gone with the graph.

    Attributes:
        is_placed: whether that hook is there.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        from torch.autograd import Variable

        engine = Variable._execution_engine

        def begins(gradients: Any) -> None:
            engine.queue_callback(report)

        self._begins = begins
        self._handle: Any = None
        self.is_placed = False

    def place(self, roots: Any) -> None:
        """A pass from these tensors is about to begin."""
        if _is_compiled():
            return
        root = roots if hasattr(roots, "grad_fn") else next(iter(roots), None)
        node = getattr(root, "grad_fn", None)
        if node is not None:
            self._handle = node.register_prehook(self._begins)
            self.is_placed = True

    def remove(self) -> None:
        """The pass is over; its graph may be kept for another one."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            self.is_placed = False


def _is_compiled() -> bool:
    """Whether backward passes are traced, hooks and all."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return bool(getattr(module, "compiled_autograd_enabled", False))


def _is_paired(work: Any) -> bool:
    """Whether what was waited for is a message from one rank to another."""
    operation = getattr(work, "_get_op_type", None)
    return operation is not None and operation() in _PAIRED_OPERATIONS


def replica_in(model: Any) -> Any:
    """The DistributedDataParallel that is the model, or in it; None without one."""
    from torch.nn.parallel import DistributedDataParallel

    modules = model.modules() if hasattr(model, "modules") else ()
    return next((module for module in modules if isinstance(module, DistributedDataParallel)), None)
