"""Builds the stand-in NVML: `python build.py DIRECTORY` leaves libnvidia-ml.so.1 there.

A process started with that directory first in LD_LIBRARY_PATH and with NVML_STUB naming a file of
GPUs (see nvml_stub.c) finds it as it would find the driver's own library.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCES = [str(path) for path in sorted(Path(__file__).parent.glob("*.c"))]


def build(directory: Path, compiler: str = "cc") -> Path:
    library = directory / "libnvidia-ml.so.1"
    flags = [
        "-std=c11",
        "-D_POSIX_C_SOURCE=200809L",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
    ]
    subprocess.run([compiler, *flags, "-o", str(library), *SOURCES], check=True)
    return library


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
