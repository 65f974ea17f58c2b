"""Which GPUs the process was given."""

from __future__ import annotations

import os
from collections.abc import Mapping


def visible_gpu(index: int, environ: Mapping[str, str] | None = None) -> str:
    """What CUDA_VISIBLE_DEVICES calls CUDA's device `index`: an index of the node or a UUID, maybe cut short.

    Without the variable it is the index itself; empty if the list is too short, as when it was changed
    after CUDA had read it.
    """
    listed = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return str(index)
    entries = [entry.strip() for entry in listed.split(",")]
    return entries[index] if index < len(entries) else ""
