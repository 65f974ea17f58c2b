"""The node's GPUs, read through NVML, the management library of NVIDIA's driver.

A missing library, driver or permission, a GPU that fell off the bus and a field that a board lacks
are states of the node, not errors: they are served as such and nothing raises. `gpu` is NVML's own
index, so it agrees with `nvidia-smi`, not with `CUDA_VISIBLE_DEVICES`.

`collector` keeps NVML open and serves, `fields` reads what a GPU says of itself, `profile` what takes
two samples, `events` waits for XIDs, and `link` gives each rank the index of its GPU.
"""

from trainbeacon.exporter.collectors.gpu.collector import GpuCollector
from trainbeacon.exporter.collectors.gpu.link import GpuLink

__all__ = ["GpuCollector", "GpuLink"]
