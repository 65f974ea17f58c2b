"""Seeing a rank wait for others, at the places where torch itself looks the waiting up.

Nothing is added to the collectives and none is begun: what is timed is the host's own waiting for them.
`Work.wait` is what all of torch's Python waits by (its synchronous collectives, FSDP2, messages from rank
to rank); DTensor and DDP's buffers have one more place each. DDP waits for its gradients in C++, inside the
backward pass and out of sight. The replacements must be traced by `torch.compile`, to step aside at once.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from trainbeacon.recorder.core.timeline import Timeline

#: Of `Work._get_op_type`: SEND, RECV, RECVANYSOURCE.
_PAIRED_OPERATIONS = (12, 13, 14)

Replace = Callable[[Any, str, Callable[..., Any]], None]


def observe_waits(timeline: Timeline, replace: Replace) -> None:
    """Have the training thread's waiting told to the timeline.

    Args:
        timeline: of the thread that calls this.
        replace: puts a function in the place of an attribute, to be taken away later.
    """
    from torch import distributed

    if not distributed.is_available():
        return
    work = distributed.Work
    replace(work, "wait", _told(work.wait, timeline, _is_paired))
    if hasattr(distributed, "_broadcast_coalesced"):
        replace(distributed, "_broadcast_coalesced", _told(distributed._broadcast_coalesced, timeline))
    functional: Any = getattr(distributed, "_functional_collectives", None)
    if hasattr(functional, "wait_tensor"):
        replace(functional, "wait_tensor", _told(functional.wait_tensor, timeline))


def _told(
    wait: Callable[..., Any], timeline: Timeline, is_paired: Callable[[Any], bool] | None = None
) -> Callable[..., Any]:
    from torch.compiler import is_compiling

    thread = get_ident()

    def waiting(*args: Any, **keywords: Any) -> Any:
        if is_compiling() or get_ident() != thread or not timeline.begin_wait():
            return wait(*args, **keywords)
        try:
            return wait(*args, **keywords)
        finally:
            timeline.end_wait(paired=is_paired is not None and is_paired(args[0]))

    return waiting


def _is_paired(work: Any) -> bool:
    """Whether what was waited for is a message from one rank to another."""
    operation = getattr(work, "_get_op_type", None)
    return operation is not None and operation() in _PAIRED_OPERATIONS


def replica_in(model: Any) -> Any:
    """The DistributedDataParallel that is the model, or in it; None without one."""
    from torch.nn.parallel import DistributedDataParallel

    modules = model.modules() if hasattr(model, "modules") else ()
    return next((module for module in modules if isinstance(module, DistributedDataParallel)), None)
