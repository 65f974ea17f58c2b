"""The visit: all checks in the order in which a number travels, and how it is printed."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any

from trainbeacon._version import __version__
from trainbeacon.doctor import alertmanager, boxes, exporters, files, grafana, machine, prometheus
from trainbeacon.doctor.context import Context
from trainbeacon.doctor.results import STATUSES, Check, Result

CHECKS: tuple[Check, ...] = (
    *machine.CHECKS,
    *boxes.CHECKS,
    *exporters.CHECKS,
    *prometheus.CHECKS,
    *alertmanager.CHECKS,
    *grafana.CHECKS,
    *files.CHECKS,
)
#: Code: what is wrong when it is not ok.
CODES = {code: title for check in CHECKS for code, title in check.codes.items()}
_PAGE = "docs/doctor.md"
#: Subjects of one code that are printed; --verbose and --json have all.
_MOST_SHOWN = 4


def visit(context: Context, only: Sequence[str] = ()) -> list[Result]:
    """The results of the checks whose codes or areas begin so, of all without. Blocks for some seconds."""
    chosen = [check for check in CHECKS if not only or any(_is_meant(check, each) for each in only)]
    if context.files and not only:
        chosen = list(files.CHECKS)
    found: list[Result] = []
    for check in chosen:
        codes = [
            code for code in check.codes if not only or any(code.startswith(each.upper()) for each in only)
        ]
        wanted = set(codes) or set(check.codes)
        found += [
            each
            for each in check.run(context)
            if each.code in wanted or (each.status in ("fail", "warn") and not only)
        ]
    return found


def _is_meant(check: Check, wanted: str) -> bool:
    return check.area.startswith(wanted.lower()) or any(
        code.startswith(wanted.upper()) for code in check.codes
    )


def exit_status(results: Iterable[Result], *, strict: bool) -> int:
    """0 all is well, 1 a warning with `strict`, 2 a failure, 3 something could not be looked at."""
    found = {each.status for each in results}
    if "fail" in found:
        return 2
    if "unknown" in found:
        return 3
    return int(strict and "warn" in found)


def lines(results: Sequence[Result], *, verbose: bool) -> Iterator[str]:
    """The verdict, then what is amiss with evidence and fix; with `verbose` all the rest too."""
    yield verdict(results)
    shown: Counter[str] = Counter()
    for status in STATUSES:
        for each in results:
            if each.status == status and (verbose or status not in ("ok", "skip")):
                shown[each.code] += 1
                if shown[each.code] > _MOST_SHOWN and not verbose:
                    continue
                yield f"{status.upper():<8}{each.code}  {CODES[each.code]}" + (
                    f": {each.evidence}" if each.evidence else ""
                )
                if each.fix:
                    yield f"{'':<15}fix: {each.fix}"
                if status in ("fail", "warn"):
                    yield f"{'':<15}see: {_PAGE}#{each.code.lower()}"
    if not verbose and (hidden := sum(max(0, count - _MOST_SHOWN) for count in shown.values())):
        yield f"{hidden} more of the same: --verbose"
    if not verbose and (skipped := sorted({each.evidence for each in results if each.status == "skip"})):
        yield f"Not looked at: {'; '.join(skipped)}."


def verdict(results: Sequence[Result]) -> str:
    """The first line."""
    worst = [each for status in ("fail", "unknown", "warn") for each in results if each.status == status]
    if not worst:
        good = sum(each.status == "ok" for each in results)
        return f"Nothing is amiss: {good} checks."
    first = worst[0]
    if first.status == "unknown":
        return f"{first.code} could not be looked at: {first.evidence}"
    more = sum(each.status in ("fail", "warn") for each in results) - 1
    return f"{CODES[first.code]}: {first.evidence}" + (f" ({more} more)" if more else "")


def document(results: Sequence[Result]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "version": __version__,
        "success": not any(each.status == "fail" for each in results),
        "checks": [
            {
                "code": each.code,
                "status": each.status,
                "title": CODES[each.code],
                "evidence": each.evidence,
                "fix": each.fix,
                "page": f"{_PAGE}#{each.code.lower()}",
            }
            for each in results
        ],
    }


def environment() -> Iterator[str]:
    """Facts for a bug report; nothing that is secret, no paths of the user."""
    yield f"trainbeacon {__version__}, Python {platform.python_version()}"
    yield f"{platform.system()} {platform.release()} on {platform.machine()}, {os.cpu_count()} processors"
    yield f"in a container: {any(map(os.path.exists, ('/.dockerenv', '/run/.containerenv')))}"
    for name in (
        "prometheus-client",
        "psutil",
        "h11",
        "PyYAML",
        "nvidia-ml-py",
        "textual",
        "apprise",
        "torch",
        "lightning",
        "transformers",
        "accelerate",
        "keras",
    ):
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name}: not installed"
    yield f"interpreter in a virtual environment: {sys.prefix != sys.base_prefix}"
    try:
        import pynvml

        pynvml.nvmlInit()
        yield f"NVIDIA driver {pynvml.nvmlSystemGetDriverVersion()}, {pynvml.nvmlDeviceGetCount()} GPUs"
    except Exception as error:  # noqa: BLE001 - a fact like any other: there is none
        yield f"NVML: {error}"
