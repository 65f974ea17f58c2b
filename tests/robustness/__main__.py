"""`python -m tests.robustness`: the full campaign; writes its figures into docs/robustness.md.

With names as arguments only those checks run, and nothing is written. `--short` takes the suite's sizes.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.robustness.campaign import CHECKS
from tests.robustness.check import FULL, SHORT, CannotTryError, Check, Size
from tests.serving import REPOSITORY

PAGE = REPOSITORY / "docs/robustness.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def judge(check: Check, size: Size) -> tuple[str, bool]:
    """What a check says, and whether its promise held."""
    folder = Path(tempfile.mkdtemp(prefix="trainbeacon-robustness-"))
    begun = time.monotonic()
    try:
        said, held = check.run(folder / "check", size), True
    except CannotTryError as reason:
        said, held = f"not tried: {reason}", True
    except Exception as error:
        said, held = f"FAILED: {type(error).__name__}: {str(error)[:300]}", False
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{check.name} ({time.monotonic() - begun:.0f} s): {said}", flush=True)
    return said, held


def table(rows: list[tuple[Check, str]], load: tuple[float, float], minutes: float) -> str:
    """The generated part of the page."""
    kernel = platform.release().partition("-")[0]
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {kernel}"
    lines = [
        f"Measured on {datetime.date.today().isoformat()} in {minutes:.0f} minutes: {machine}; load average "
        f"{load[0]:.1f} before and {load[1]:.1f} after, so other work ran beside it.",
        "",
        "| What | Promise | Figures |",
        "| --- | --- | --- |",
        *(f"| {check.name} | {check.promise} | {said.replace('|', '/')} |" for check, said in rows),
    ]
    return "\n".join(lines)


def main() -> int:
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    size = SHORT if "--short" in sys.argv else FULL
    chosen = [check for check in CHECKS if not names or check.name in names]
    before, begun = os.getloadavg()[0], time.monotonic()
    results = [(check, *judge(check, size)) for check in chosen]
    if not names and size is FULL:
        rows = [(check, said) for check, said, _ in results]
        text = PAGE.read_text()
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        new = table(rows, (before, os.getloadavg()[0]), (time.monotonic() - begun) / 60)
        PAGE.write_text(f"{head}{BEGIN}\n{new}\n{END}{tail}")
    return 0 if all(held for _, _, held in results) else 1


if __name__ == "__main__":
    sys.exit(main())
