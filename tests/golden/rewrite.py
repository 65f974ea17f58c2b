"""Write exposition.txt anew: `python -m tests.golden.rewrite`, then read the difference.

Not among the generators of tools/generate.py, which `make lint` runs: this one starts processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.golden.normalise import normalised
from tests.nvml_stub.build import build
from tests.scripted import GOLDEN, serving


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch))
        with serving("agent", Path(scratch) / "boxes", Path(scratch)) as service:
            GOLDEN.write_text(normalised(service.text))
    print(f"written: {GOLDEN}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
