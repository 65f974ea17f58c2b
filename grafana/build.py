"""Writes `dashboards/*.json` from `sources/*.py`: `python -m grafana.build [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from grafana.dashboard import Dashboard

HERE = Path(__file__).parent
PREFIX = "trainbeacon-"


def generate() -> dict[str, str]:
    """All dashboards as text, by their path in the repository. The same sources give the same text."""
    found = {}
    for source in sorted((HERE / "sources").glob("[!_]*.py")):
        dashboard: Dashboard = import_module(f"grafana.sources.{source.stem}").DASHBOARD
        model = dashboard.build(PREFIX + source.stem.replace("_", "-"))
        found[f"grafana/dashboards/{source.stem}.json"] = json.dumps(model, indent=2, sort_keys=True) + "\n"
    return found


def main(arguments: Sequence[str]) -> int:
    """Write the dashboards, or with `--check` only name those that are out of date."""
    stale = []
    for name, text in generate().items():
        path = HERE.parent / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text)
    print("\n".join(stale) or "dashboards are up to date")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
