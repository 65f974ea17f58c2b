"""Keeping `torch.compile` out of the recording: a call of ours inside a compiled function is made as it is.

Left to itself, the compiler would trace into every function behind `beacon.log` and break its graph
several times. The hooks are not kept out: they must be traced, to return at once, so that
`fullgraph=True` holds.
"""

from __future__ import annotations

import sys

_MODULES = (
    "trainbeacon.beacon",
    "trainbeacon.blackbox.writer",
    "trainbeacon.checkpoints",
    "trainbeacon.milestones",
    "trainbeacon.names",
    "trainbeacon.numerics",
    "trainbeacon.pinned",
    "trainbeacon.probes.backward",
    "trainbeacon.probes.checkpoints",
    "trainbeacon.probes.flops",
    "trainbeacon.probes.gradients",
    "trainbeacon.probes.inputs",
    "trainbeacon.probes.layers",
    "trainbeacon.probes.loss",
    "trainbeacon.probes.nonfinite",
    "trainbeacon.probes.origin",
    "trainbeacon.probes.shards",
    "trainbeacon.recorder",
    "trainbeacon.saves",
    "trainbeacon.scalars",
    "trainbeacon.spans",
    "trainbeacon.timeline",
    "trainbeacon.watching",
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
