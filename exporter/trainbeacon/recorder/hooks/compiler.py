"""Keeping `torch.compile` out of the recording: a call of ours inside a compiled function is made as it is.

Left to itself, the compiler would trace into every function behind `beacon.log` and break its graph
several times. `recorder.hooks` is not kept out: what a user's graph may contain must be traced, to return
at once, so that `fullgraph=True` holds.
"""

from __future__ import annotations

import pkgutil
import sys

_PACKAGE = __name__.partition(".")[0]
_TRACED = "trainbeacon.recorder.hooks"
_done = False


def skip_in_dynamo() -> None:
    """Tell the compiler once it is loaded (to load it for this would cost seconds); from any thread."""
    global _done
    rules = sys.modules.get("torch._dynamo.trace_rules")
    if _done or rules is None or not hasattr(rules, "add"):
        return
    _done = True
    for name in _all_but(_TRACED, list(sys.modules[_PACKAGE].__path__), _PACKAGE):
        rules.add(name)


def _all_but(kept: str, folders: list[str], package: str) -> list[str]:
    """The modules and packages of a package that are neither `kept` nor contain it."""
    found: list[str] = []
    for entry in pkgutil.iter_modules(folders):
        name = f"{package}.{entry.name}"
        if kept.startswith(f"{name}."):
            found += _all_but(kept, [f"{folder}/{entry.name}" for folder in folders], name)
        elif name != kept:
            found.append(name)
    return found
