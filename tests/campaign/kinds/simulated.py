"""What no process here can have: scenarios of `trainbeacon simulate`, served to the same Prometheus."""

from __future__ import annotations

from tests.campaign.kinds.kind import FAILED, STRAGGLER, Kind

SIMULATED: tuple[Kind, ...] = (
    Kind(
        "xid",
        "XID 79, a GPU falls off the bus; its rank fails; the run is over",
        ("TrainingGpuXid", "TrainingGpuLost"),
        ("TrainingGpuRecoveryNeeded", FAILED),
        count=10,
    ),
    Kind(
        "ecc",
        "an uncorrected memory error and a row remapping that is pending",
        ("TrainingGpuMemoryErrors",),
        ("TrainingGpuXid", "TrainingGpuRecoveryNeeded"),
        count=10,
    ),
    Kind(
        "throttling",
        "a GPU is held at 60 % of its clock by its temperature; its rank is slower",
        ("TrainingGpuThrottled",),
        (STRAGGLER, "TrainingThroughputDrop", "TrainingGpuClockLow"),
        count=6,
        within=780,
    ),
    Kind(
        "gpu-memory-leak",
        "the GPU memory of a rank grows by about 25 MB a second",
        ("TrainingGpuMemoryNearlyFull",),
        (FAILED,),
        count=4,
        within=900,
    ),
    Kind("simulated_healthy", "nothing happens", (), names="", count=6),
)
