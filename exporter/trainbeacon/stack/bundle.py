"""What ships beside the code: rules, routes, dashboards, chart. In a wheel, and in a checkout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainbeacon.notify.runbooks import SHIPPED_URL


@dataclass(frozen=True)
class Part:
    """One folder of the bundle, and what its reader does with it."""

    folder: str
    next_step: str
    """What to do after it was written out; `{at}` stands for where it lies."""


PARTS = (
    Part(
        "prometheus",
        "prometheus --config.file={at}/prometheus.yml; or, in a Prometheus that runs already,\n"
        "rule_files: [{at}/rules/recording/*.yml, {at}/rules/alerts/*.yml]\n"
        "and a scrape of port 9797 of every node",
    ),
    Part(
        "alertmanager",
        "name your own receiver in {at}/alertmanager.yml (it says how),\n"
        "then alertmanager --config.file={at}/alertmanager.yml",
    ),
    Part(
        "grafana/dashboards", "import {at}/*.json in Grafana, or let it read them as files: see provisioning"
    ),
    Part(
        "grafana/provisioning",
        "copy {at}/* to /etc/grafana/provisioning, and the dashboards to the folder that it names",
    ),
    Part("deploy/k8s/chart", "helm install trainbeacon {at}; the values are explained in {at}/values.yaml"),
)


def bundle_dir() -> Path:
    """The folder that the parts lie in: of an installed package, or the checkout.

    Raises:
        FileNotFoundError: they are in neither place, as in a copy of the bare package.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "bundle", package.parent.parent):
        if (folder / "prometheus" / "prometheus.yml").is_file():
            return folder
    raise FileNotFoundError(
        f"no prometheus/prometheus.yml in {package / 'bundle'} or {package.parent.parent}"
    )


def runbooks_dir() -> Path:
    """The folder of the runbooks. Raises FileNotFoundError, as `bundle_dir` does."""
    return bundle_dir() / "prometheus" / "runbooks"


def parts(bundle: Path) -> list[Part]:
    """The parts that are there."""
    return [part for part in PARTS if (bundle / part.folder).is_dir()]


def files(bundle: Path) -> Iterator[Path]:
    """Every file of the parts, relative to the bundle, sorted."""
    for part in parts(bundle):
        yield from sorted(
            path.relative_to(bundle) for path in (bundle / part.folder).rglob("*") if path.is_file()
        )


def differing(bundle: Path, target: Path, runbook_url: str = SHIPPED_URL) -> list[Path]:
    """The files of the target that have another content than ours and would be overwritten."""
    return [file for file in files(bundle) if _is_other(target / file, _content(bundle / file, runbook_url))]


def _is_other(theirs: Path, ours: bytes) -> bool:
    if not theirs.exists() and not theirs.is_symlink():
        return False
    return not theirs.is_file() or theirs.read_bytes() != ours


def _content(file: Path, runbook_url: str) -> bytes:
    """A file as it is written out: rules link to the runbooks under that address."""
    content = file.read_bytes()
    return content.replace(SHIPPED_URL.encode(), runbook_url.encode()) if file.suffix == ".yml" else content


def write_out(bundle: Path, target: Path, runbook_url: str = SHIPPED_URL) -> list[Path]:
    """Write what is not there yet, or is different; returns those files. Raises OSError."""
    written = []
    for file in files(bundle):
        theirs, ours = target / file, _content(bundle / file, runbook_url)
        if theirs.is_file() and theirs.read_bytes() == ours:
            continue
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.write_bytes(ours)
        written.append(file)
    return written
