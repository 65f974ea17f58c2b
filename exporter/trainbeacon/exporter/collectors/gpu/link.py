"""Gives each rank NVML's index of its GPU.

A rank knows its GPU by CUDA's count, which leaves out what CUDA_VISIBLE_DEVICES hides and may have
another order. The UUID is the same for both.
"""

from __future__ import annotations

from trainbeacon.exporter.collectors.base import Families

_MIG = "MIG-"


class GpuLink:
    """Rewrites `gpu` and `gpu_uuid` of the ranks by what NVML says in the same scrape.

    UUIDs once seen are remembered, so that the label of a rank does not change when its GPU is lost.
    A UUID that NVML does not show stays as the rank wrote it: another container may see other GPUs.
    """

    def __init__(self) -> None:
        self._index: dict[str, str] = {}

    def apply(self, families: Families) -> None:
        """Learn the GPUs of this scrape and rewrite its ranks."""
        for name in ("training_gpu_info", "training_gpu_mig_info"):
            family = families.get(name)
            for sample in family.samples if family else ():
                self._index[sample.labels["uuid"]] = sample.labels["gpu"]
        ranks = families.get("training_rank_info")
        for sample in ranks.samples if ranks else ():
            found = self._find(sample.labels["gpu_uuid"])
            if found is not None:
                sample.labels["gpu_uuid"], sample.labels["gpu"] = found

    def _find(self, uuid: str) -> tuple[str, str] | None:
        """The full UUID and the index of the one GPU that `uuid`, maybe abbreviated, can mean."""
        if not uuid:
            return None
        if uuid.startswith(f"{_MIG}GPU-"):  # drivers before 470 name an instance within its GPU
            parent = self._find(uuid.removeprefix(_MIG).partition("/")[0])
            return (uuid, parent[1]) if parent else None
        if uuid in self._index:
            return uuid, self._index[uuid]
        matches = [known for known in list(self._index) if known.startswith(uuid)]  # scrapes run side by side
        return (matches[0], self._index[matches[0]]) if len(matches) == 1 else None
