"""Write every generated file of the repository, or with `--check` only say which are out of date.

To add one: a function in `GENERATORS` that returns the texts by path, relative to the repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "exporter")]  # this checkout, installed or not


def metrics_reference() -> Mapping[str, str]:
    """The reference page of the metrics, from the catalogue."""
    from trainbeacon.cli.catalogue import as_markdown

    return {"exporter/METRICS.md": as_markdown()}


def dashboards() -> Mapping[str, str]:
    """The dashboards of Grafana, from their sources."""
    if not (REPOSITORY / "grafana/build.py").is_file():
        return {}
    return {str(path): text for path, text in import_module("grafana.build").generate().items()}


def chart() -> Mapping[str, str]:
    """What the Helm chart carries, its table of values, and the manifests that it renders to."""
    from tools import chart

    files = chart.chart_files(dashboards())
    return {**files, f"{chart.CHART}/README.md": chart.values_table(), **chart.manifests(files)}


def compose() -> Mapping[str, str]:
    """The configurations of compose, from those that are shipped."""
    from tools.compose import compose_files

    return compose_files()


def alerts() -> Mapping[str, str]:
    """The page of all alerts, from the rules."""
    from tools.alerts import page

    return page()


GENERATORS: tuple[Callable[[], Mapping[str, str]], ...] = (
    metrics_reference,
    alerts,
    dashboards,
    chart,
    compose,
)

#: Nothing but generated files lives here: what no generator names any more is out of date.
OWNED = (
    "grafana/dashboards/*.json",
    "deploy/k8s/chart/files/*/*.json",
    "deploy/k8s/chart/files/rules/*/*.yml",
    "deploy/k8s/manifests/*.yaml",
    "deploy/k8s/manifests/notify/*.yaml",
)


def expected() -> dict[Path, str]:
    """The text that every generated file should have."""
    return {REPOSITORY / path: text for generator in GENERATORS for path, text in generator().items()}


def outdated(files: Mapping[Path, str]) -> list[Path]:
    """Generated files that are missing, differ, or should be gone."""
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    orphans = [path for pattern in OWNED for path in REPOSITORY.glob(pattern) if path not in files]
    return sorted(changed + orphans)


def write(files: Mapping[Path, str], paths: list[Path]) -> None:
    """Bring the named files up to date."""
    for path in paths:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
        else:
            path.unlink()
        print(f"generated {path.relative_to(REPOSITORY)}")


def main() -> int:
    """Run the command; with `--check`, 1 if a file is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    arguments = parser.parse_args()
    files = expected()
    paths = outdated(files)
    if not arguments.check:
        write(files, paths)
        return 0
    for path in paths:
        print(f"{path.relative_to(REPOSITORY)} is out of date: run `make generate`", file=sys.stderr)
    return 1 if paths else 0


if __name__ == "__main__":
    sys.exit(main())
