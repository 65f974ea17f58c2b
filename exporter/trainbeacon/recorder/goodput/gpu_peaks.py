"""Peak rates of GPUs by product name: what an MFU of 1 would be.

Dense BF16 tensor-core FLOPs a second with 32-bit accumulation, without sparsity; FP16 where a GPU has no
BF16. From NVIDIA's data sheets, which print most figures with sparsity: those are halved here.

    Blackwell    HGX and GB data sheets: B100, B200, B300, GB200, GB300
    Hopper       H100 (SXM, PCIe, NVL), H200 (SXM, NVL), GH200; H800 and H20 as sold in China
    Ada          L4, L40, L40S, RTX 6000 Ada data sheets; GeForce from the architecture's white paper
    Ampere       A100, A800, A30, A40, A10, RTX A6000 data sheets; GeForce from the white paper
    Turing, Volta    T4, V100 data sheets (FP16)

The setting `peak_flops` overrides the table, for other precisions and other devices. No figure here was
measured by us.
"""

from __future__ import annotations

import re

_TERA = 1e12
#: Words that a product name must hold, and the peak; the first match counts, so the special comes first.
_PEAKS: tuple[tuple[frozenset[str], float], ...] = tuple(
    (frozenset(words.split()), peak * _TERA)
    for words, peak in (
        ("GB300", 2500.0),
        ("GB200", 2500.0),
        ("B300", 2250.0),
        ("B200", 2250.0),
        ("B100", 1750.0),
        ("GH200", 989.4),
        ("H200 NVL", 835.5),
        ("H200", 989.4),
        ("H100 PCIE", 756.5),
        ("H100 NVL", 835.5),
        ("H100", 989.4),
        ("H800 PCIE", 756.5),
        ("H800", 989.4),
        ("H20", 148.0),
        ("A100", 312.0),
        ("A800", 312.0),
        ("A40", 149.7),
        ("A30", 165.0),
        ("A10", 125.0),
        ("L40S", 362.05),
        ("L40", 181.05),
        ("L4", 121.0),
        ("RTX 6000 ADA", 364.2),
        ("RTX A6000", 154.8),
        ("RTX 4090", 165.2),
        ("RTX 3090", 71.0),
        ("V100S", 130.0),
        ("V100 PCIE", 112.0),
        ("V100", 125.0),
        ("T4", 65.0),
    )
)


def peak_of(name: str) -> float | None:
    """FLOPs a second at best of a GPU with that product name.

    None for one that is not in the table, and for a part of a GPU (MIG).
    """
    words = set(re.findall(r"[A-Z0-9]+", name.upper()))
    if "MIG" in words:
        return None
    return next((peak for needed, peak in _PEAKS if needed <= words), None)
