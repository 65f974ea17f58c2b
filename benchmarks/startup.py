"""How long import and `start()` take in a fresh interpreter, and what the import consists of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from benchmarks.measure import Effort, load, significant, summary

_TIMED = """
import sys, time
clocks = time.perf_counter, time.process_time
before = [clock() for clock in clocks]
import trainbeacon
imported = [clock() for clock in clocks]
beacon = trainbeacon.start(
    run="benchmark", directory=sys.argv[1], serve=sys.argv[2], host="127.0.0.1", port=0, linger_seconds=2)
started = [clock() for clock in clocks]
print(*[(after - before) * 1e3 for start, end in ((before, imported), (imported, started))
        for before, after in zip(start, end)])
print(*[name for name in ("torch", "prometheus_client", "h11", "psutil", "yaml") if name in sys.modules])
beacon.finish()
"""
_PARTS = ("import, wall", "import, processor", "start, wall", "start, processor")
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")


def measure(effort: Effort) -> dict[str, Any]:
    """Milliseconds of import and start, without torch, for `serve="off"` and `serve="process"` in turns.

    The byte code is there already, as with an installed package; the first import compiles and is told apart.
    """
    begun = load()
    times: dict[str, list[list[float]]] = {"off": [], "process": []}
    loaded: set[str] = set()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        first, _ = _start_once("off", environment)
        for _ in range(effort.choose(12, 5, 1)):
            for serve, samples in times.items():
                numbers, modules = _start_once(serve, environment)
                samples.append(numbers)
                loaded.update(modules)
        parts = importtime(environment, runs=effort.choose(5, 5, 1))
    return {
        "load_average": [begun, load()],
        "first_import_milliseconds": first[:2],
        "milliseconds": {serve: _told(samples) for serve, samples in times.items()},
        "heavy_modules_loaded": sorted(loaded),
        "import_time": parts,
    }


def _told(samples: list[list[float]]) -> dict[str, Any]:
    told = {
        part: asdict(summary(values)) for part, values in zip(_PARTS, zip(*samples, strict=True), strict=True)
    }
    told["both, wall"] = asdict(summary([sample[0] + sample[2] for sample in samples]))
    told["both, processor"] = asdict(summary([sample[1] + sample[3] for sample in samples]))
    return {**told, "raw": samples}


def _start_once(serve: str, environment: dict[str, str]) -> tuple[list[float], list[str]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        numbers, modules = _python(environment, "-c", _TIMED, folder, serve).stdout.split("\n")[:2]
    return [significant(float(number), 4) for number in numbers.split()], modules.split()


def importtime(environment: dict[str, str], runs: int, most: int = 12) -> list[dict[str, Any]]:
    """The modules that take longest by themselves in the import; the least of some runs for each."""
    bare = {name for _, _, name in _imports(environment, "")}
    least: dict[str, tuple[int, int]] = {}
    for _ in range(runs):
        for alone, whole, name in _imports(environment, "import trainbeacon"):
            least[name] = min(least.get(name, (alone, whole)), (alone, whole))
    longest = sorted(
        ((alone, whole, name) for name, (alone, whole) in least.items() if name not in bare), reverse=True
    )
    return [
        {"module": name, "microseconds_alone": alone, "with_its_imports": whole}
        for alone, whole, name in longest[:most]
    ]


def _imports(environment: dict[str, str], code: str) -> list[tuple[int, int, str]]:
    report = _python(environment, "-X", "importtime", "-c", code).stderr
    matches = filter(None, map(_LINE.match, report.splitlines()))
    return [(int(alone), int(whole), name) for alone, whole, name in (match.groups() for match in matches)]


def _python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
