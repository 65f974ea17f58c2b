"""A node whose NVML is the stand-in, with a process that has a GpuCollector: for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STUB = Path(__file__).resolve().parent
PACKAGE = STUB.parents[1] / "exporter"

TWO_GPUS = {
    "count": 2,
    "driver": "555.42.02",
    "gpu0.uuid": "GPU-11111111",
    "gpu0.name": "NVIDIA H100 80GB HBM3",
    "gpu0.utilization": 37,
    "gpu0.memory_total": 85899345920,
    "gpu0.memory_reserved": 536870912,
    "gpu0.memory_used": 8589934592,
    "gpu0.temperature": 41,
    "gpu0.power": 312500,
    "gpu0.power_limit": 700000,
    "gpu1.uuid": "GPU-22222222",
    "gpu1.name": "NVIDIA H100 80GB HBM3",
    "gpu1.utilization": 100,
    "gpu1.memory_total": 85899345920,
    "gpu1.memory_reserved": 536870912,
    "gpu1.memory_used": 0,
    "gpu1.temperature": 67,
    "gpu1.power": 698000,
    "gpu1.power_limit": 700000,
}

ALL_LINKS = 0xFFFFFFFF
#: What NVML reports beyond that of a GPU that reports everything.
HOPPER = {
    "gpu0.energy": 123456789,
    "gpu0.clock_graphics": 1980,
    "gpu0.clock_sm": 1755,
    "gpu0.clock_sm_max": 1980,
    "gpu0.clock_memory": 2619,
    "gpu0.event_reasons": 0x1 | 0x4 | 0x40,
    f"gpu0.field138.{ALL_LINKS}": 3,
    f"gpu0.field139.{ALL_LINKS}": 5,
    "gpu0.field197": 700,
    "gpu0.field198": 900,
    "gpu0.ecc_corrected": 11,
    "gpu0.ecc_uncorrected": 2,
    "gpu0.rows_corrected": 4,
    "gpu0.rows_uncorrected": 3,
    "gpu0.rows_pending": 1,
    "gpu0.rows_failed": 0,
    "gpu0.pcie_replays": 8,
    "gpu0.field38": "21",
    "gpu0.field45": "22u",
    "gpu0.field52": "23",
    "gpu0.field59": "24.0",
    "gpu0.field173": "31u",
    "gpu0.field179": "32u",
    "gpu0.field180": "33u",
    "gpu0.field165": "1u",
    "gpu0.field165.1": "1u",
    "gpu0.field165.2": "0u",
    "gpu0.field230": "2u",
    "gpu0.mig": 0,
}
#: One GPU with every series that there is, figures and events that come by themselves included.
EVERYTHING = {
    **TWO_GPUS,
    **HOPPER,
    "count": 1,
    "gpu0.gpm_clock": "real",
    "gpu0.gpm2": 80,
    "gpu0.gpm3": 40,
    "gpu0.gpm5": 60,
    "gpu0.gpm10": 30,
    "gpu0.mig": 1,
    "gpu0.mig0": "MIG-11111111",
    "gpu0.events": 8,
    "event1": "0 94",
    "past_events": 1,
}


def as_text(*gpus: dict[str, object]) -> str:
    """What the stand-in reads; later values win, and None is no line."""
    lines = {key: value for part in gpus for key, value in part.items()}
    return "".join(f"{key}={value}\n" for key, value in lines.items() if value is not None)


def gpu_series(index: int, uuid: str, **values: float) -> dict[str, float]:
    info = f'driver="555.42.02",gpu="{index}",name="NVIDIA H100 80GB HBM3",uuid="{uuid}"'
    series = {f'training_gpu_{name}{{gpu="{index}"}}': value for name, value in values.items()}
    return {**series, f"training_gpu_info{{{info}}}": 1.0}


GPU0 = gpu_series(
    0,
    "GPU-11111111",
    up=1.0,
    utilization_ratio=0.37,
    memory_used_bytes=8589934592.0,
    memory_total_bytes=85899345920.0,
    temperature_celsius=41.0,
    power_watts=312.5,
    power_limit_watts=700.0,
    xid_watched=0.0,
)
GPU1 = gpu_series(
    1,
    "GPU-22222222",
    up=1.0,
    utilization_ratio=1.0,
    memory_used_bytes=0.0,
    memory_total_bytes=85899345920.0,
    temperature_celsius=67.0,
    power_watts=698.0,
    power_limit_watts=700.0,
    xid_watched=0.0,
)
GPU1_LOST = {'training_gpu_up{gpu="1"}': 0.0}


def gpu(name: str, index: int = 0, /, **labels: str) -> str:
    """The series of a GPU as an exposition writes it, its name without `training_gpu_`."""
    pairs = sorted({"gpu": str(index), **labels}.items())
    inside = ",".join(f'{key}="{value}"' for key, value in pairs)
    return f"training_gpu_{name}{{{inside}}}"


def nvml(state: str) -> dict[str, float]:
    names = ("ok", "no_library", "no_driver", "no_permission", "failed")
    return {f'trainbeacon_nvml_state{{state="{name}"}}': float(name == state) for name in names}


def without(series: dict[str, float], *fields: str) -> dict[str, float]:
    return {name: value for name, value in series.items() if not any(field in name for field in fields)}


class Node:
    """A process with a GpuCollector, and the GPUs that its NVML shows."""

    def __init__(self, directory: Path, library: Path | None) -> None:
        self._gpus = directory / "gpus"
        self.show(TWO_GPUS)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(STUB / "scrape.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")]),
                "NVML_STUB": str(self._gpus),
                "LD_LIBRARY_PATH": str(library.parent if library else directory),
            },
        )

    def show(self, *gpus: dict[str, object]) -> None:
        """Replace what NVML shows; later lines win."""
        new = self._gpus.with_suffix(".new")
        new.write_text(as_text(*gpus))
        new.replace(self._gpus)

    def tell(self, command: str) -> list[str]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line == ".\n":
                return lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the process ended; it said {lines}")

    def scrape(self, raises: str = "") -> dict[str, float]:
        """The samples of one scrape; `raises` is what the collector must raise after them."""
        lines = [line for line in self.tell("collect") if not line.startswith("#")]
        raised = lines.pop() if lines and lines[-1].startswith("raised: ") else ""
        assert raised.removeprefix("raised: ") == raises
        return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}

    def end(self) -> int:
        """Let the process come to its end by itself; its exit status."""
        assert self._process.stdin
        self._process.stdin.close()
        return self._process.wait(timeout=120)

    def close(self) -> None:
        with self._process:  # closes the pipes and waits
            self._process.kill()


def has_nvml() -> bool:
    """Whether this machine has NVIDIA's own library."""
    code = "import ctypes; ctypes.CDLL('libnvidia-ml.so.1')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
