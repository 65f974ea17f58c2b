"""Keeping `torch.compile` out of the recording: a call of ours inside a compiled function is made as it is.

Left to itself, the compiler would trace into every function behind `beacon.log` and break its graph
several times. The hooks are not kept out: they must be traced, to return at once, so that
`fullgraph=True` holds.
"""

from __future__ import annotations

import sys

_MODULES = (
    "trainbeacon.recorder.api.beacon",
    "trainbeacon.blackbox.writer",
    "trainbeacon.recorder.checkpoints.checkpoints",
    "trainbeacon.recorder.core.evaluations",
    "trainbeacon.recorder.core.metrics",
    "trainbeacon.recorder.numerics.watch",
    "trainbeacon.recorder.device.pinned",
    "trainbeacon.recorder.hooks.backward",
    "trainbeacon.recorder.checkpoints.save_hooks",
    "trainbeacon.recorder.goodput.flop_counter",
    "trainbeacon.recorder.numerics.gradients",
    "trainbeacon.recorder.probes.inputs",
    "trainbeacon.recorder.numerics.layers",
    "trainbeacon.recorder.learning.loss_spikes",
    "trainbeacon.recorder.learning.nonfinite",
    "trainbeacon.recorder.numerics.origin",
    "trainbeacon.recorder.numerics.shards",
    "trainbeacon.recorder.core.recorder",
    "trainbeacon.recorder.checkpoints.torch_saves",
    "trainbeacon.recorder.device.scalars",
    "trainbeacon.recorder.api.spans",
    "trainbeacon.recorder.core.timeline",
    "trainbeacon.recorder.hooks.watch",
)
_done = False


def keep_out_of_graphs() -> None:
    """Tell the compiler once it is loaded (to load it for this would cost seconds); from any thread."""
    global _done
    rules = sys.modules.get("torch._dynamo.trace_rules")
    if _done or rules is None or not hasattr(rules, "add"):
        return
    _done = True
    for module in _MODULES:
        rules.add(module)
