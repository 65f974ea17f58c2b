"""Keeping `torch.compile` out of the recording: a call of ours inside a compiled function is made as it is.

Left to itself, the compiler would trace into every function behind `beacon.log` and break its graph
several times. The hooks are not kept out: they must be traced, to return at once, so that
`fullgraph=True` holds.
"""

from __future__ import annotations

import sys

#: Folders and files that are not traced. The hooks are: see above; so are the few that count FLOPs.
_SKIPPED = (
    "trainbeacon.blackbox",
    *(
        f"trainbeacon.recorder.{folder}"
        for folder in (
            "api",
            "background",
            "checkpoints",
            "core",
            "device",
            "hangs",
            "learning",
            "numerics",
            "probes",
        )
    ),
    "trainbeacon.recorder.goodput.flop_counter",
    "trainbeacon.recorder.hooks.backward",
    "trainbeacon.recorder.hooks.watch",
)
_done = False


def skip_in_dynamo() -> None:
    """Tell the compiler once it is loaded (to load it for this would cost seconds); from any thread."""
    global _done
    rules = sys.modules.get("torch._dynamo.trace_rules")
    if _done or rules is None or not hasattr(rules, "add"):
        return
    _done = True
    for module in _SKIPPED:
        rules.add(module)
