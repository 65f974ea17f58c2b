"""The promise of the layers: imports point one way, and what is heavy stays where it belongs.

A new module of the package takes its place in `SIDES` or `ON_TOP`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "exporter/trainbeacon"

#: Lowest first: a module imports only what stands in its own line or an earlier one of its side.
COMMON = (
    {"_version", "catalogue", "ports"},
    {"identity"},
    {"redaction"},
    {"validation"},
    {"config"},
    {"blackbox"},
)
WRITE = (
    {"failures", "scalars", "pinned", "probes", "timeline"},
    {"errands", "ledger", "recorder", "statefile"},
    {"diskspace"},
    {"checkpoints", "flops", "goodput", "peaks", "salvage", "saves"},
    {"numerics"},
    {
        "evidence",
        "graphs",
        "helper",
        "intervention",
        "hooks",
        "launch",
        "milestones",
        "names",
        "sampling",
        "spans",
        "stepcount",
    },
    {"numbers"},
    {"watching"},
    {"beacon"},
    {"session"},
    {"integrations"},
)
READ = (
    {"collectors"},
    {"registry", "exposition"},
    {"webconfig", "authentication"},
    {"connections"},
    {"server", "discovery"},
    {"exporter", "notify"},
)
#: Stand above both sides and may import either.
ON_TOP = {"__init__", "__main__", "cli", "demo", "shipped", "simulate", "testing"}
#: Where one side starts the other, inside a function: `serve="thread"` has its exporter in the process.
SEAMS = {("launch", "exporter")}

WRITE_SIDE = set().union(*WRITE)
READ_SIDE = set().union(*READ)
PLACED = set().union(*COMMON) | WRITE_SIDE | READ_SIDE | ON_TOP
FRAMEWORKS = {"torch", "numpy", "tensorflow", "jax", "lightning", "transformers", "accelerate", "deepspeed"}


@dataclass(frozen=True)
class Import:
    """One imported module: who imports it, where, and whether only when a function runs."""

    unit: str
    place: str
    target: str
    lazy: bool

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    @property
    def own_unit(self) -> str:
        """The unit of ours that is imported; what is none of them is a name of the facade."""
        name = [*self.target.split("."), ""][1]
        return name if name in PLACED else "__init__"


def unit_of(path: Path) -> str:
    """The module or folder of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file that happens at run time, relative ones resolved."""
    tree = ast.parse(path.read_text("utf-8"))
    lazy = _within(tree, lambda node: isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    types = _within(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    for node in set(ast.walk(tree)) - types:
        for target in _targets(node, path):
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            yield Import(unit_of(path), place, target, node in lazy)


def _within(tree: ast.AST, chosen: Callable[[ast.AST], bool]) -> set[ast.AST]:
    return {node for outer in ast.walk(tree) if chosen(outer) for node in ast.walk(outer)}


def _targets(node: ast.AST, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parts = ("trainbeacon", *path.relative_to(PACKAGE).parts)
    base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
    origin = ".".join(part for part in (base, node.module) if part)
    # `from trainbeacon import catalogue` names a module, `from trainbeacon.config import Config` does not.
    return [f"{origin}.{alias.name}" if origin == "trainbeacon" else origin for alias in node.names]


IMPORTS = [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]
OWN = [found for found in IMPORTS if found.top == "trainbeacon" and found.own_unit != found.unit]


def allowed(unit: str) -> set[str]:
    """The units of ours that a unit may import."""
    if unit in ON_TOP:
        return PLACED
    layers: set[str] = set()
    for side in ((*COMMON, *WRITE), (*COMMON, *READ)):
        for index, layer in enumerate(side):
            if unit in layer:
                layers.update(*side[: index + 1])
    return layers


def misplaced(found: Import) -> bool:
    """Whether an import of ours goes against the order."""
    seam = found.lazy and (found.unit, found.own_unit) in SEAMS
    return found.own_unit not in allowed(found.unit) and not seam


def test_every_module_has_its_place() -> None:
    """A module that is in no layer would escape the order: give it its line at the top of this file."""
    assert set() == {unit_of(path) for path in PACKAGE.rglob("*.py")} - PLACED


def test_imports_point_one_way() -> None:
    """The write side knows no Prometheus and the read side no training: neither imports the other."""
    assert [] == sorted(f"{i.place} imports {i.target}" for i in OWN if misplaced(i))


def test_catalogue_imports_nothing_of_ours() -> None:
    """The one list that everything is checked against depends on nothing."""
    assert [] == [f"{i.place} imports {i.target}" for i in OWN if i.unit == "catalogue"]


def test_read_side_does_not_write_black_boxes() -> None:
    """Collectors see a rank through the reader only, so they cannot change what they report."""
    wrong = [i for i in OWN if i.unit in READ_SIDE and i.target.startswith("trainbeacon.blackbox.writer")]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_prometheus_client_only_on_the_read_side() -> None:
    """A training process that is served from elsewhere never loads prometheus_client."""
    wrong = [
        i for i in IMPORTS if i.top == "prometheus_client" and i.unit not in {*READ_SIDE, "demo", "testing"}
    ]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_frameworks_only_where_they_are_used() -> None:
    """torch and its like: in integrations and the demo, and inside functions of the write side."""
    wrong = [
        i
        for i in IMPORTS
        if i.top in FRAMEWORKS
        and i.unit not in {"integrations", "demo"}
        and not (i.lazy and i.unit in WRITE_SIDE)
    ]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_environment_is_read_in_two_places() -> None:
    """Only config.py and identity.py read environment variables, so each has one meaning and one check."""
    readers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if {"environ", "getenv", "environb"} & set(names):
                readers.add(unit_of(path))
    assert readers <= {"config", "identity"}


@pytest.mark.parametrize("heavy", ["torch", "numpy", "prometheus_client", "cheroot", "yaml"])
def test_importing_the_package_loads_nothing_heavy(heavy: str) -> None:
    """`import trainbeacon` needs no framework and takes no time from a script that may not use it."""
    program = "import json, sys, trainbeacon; trainbeacon.start; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "" == done.stderr
    assert heavy not in json.loads(done.stdout)
