"""The promise of the layers: folders import one way, nothing imports in a circle, and what is heavy stays
where it belongs."""

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

#: The rule. Lowest first: a folder imports from earlier lines of its part, and not from its own line.
LAYERS = {
    "trainbeacon": (
        "_version catalogue identity",
        "config blackbox",
        "recorder exporter",
        "integrations logging notify testing",
        "stack",
        "simulate demo verdict",
        "terminal doctor replay profiling",
        "report",
        "cli",
    ),
    "trainbeacon.recorder": (
        "boundary",
        "device learning",
        "core",
        "numerics probes goodput",
        "hangs checkpoints",
        "hooks",
        "background",
        "api",
    ),
}
#: What notifies a person knows of metrics, settings and HTTP, and nothing of training.
NOT_FOR_NOTIFY = {"blackbox", "identity", "integrations", "recorder"}

FRAMEWORKS = {"torch", "numpy", "tensorflow", "jax", "lightning", "transformers", "accelerate", "deepspeed"}
MOST_ENTRIES = 12


@dataclass(frozen=True)
class Import:
    """One imported module: by whom, and whether only when a function runs."""

    importer: str
    place: str
    target: str
    lazy: bool

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    @property
    def folder(self) -> str:
        return folder_of(self.importer, "trainbeacon")


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = ("trainbeacon", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def folder_of(module: str, part: str) -> str:
    """The folder or file that a module is in, of a part of the package; empty outside of it."""
    return module[len(part) + 1 :].partition(".")[0] if module.startswith(part + ".") else ""


def imports_of(module: str, path: Path) -> Iterator[Import]:
    """Every import of a file that happens at run time, relative ones resolved."""
    tree = ast.parse(path.read_text("utf-8"))
    lazy = _within(tree, lambda node: isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    types = _within(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    for node in set(ast.walk(tree)) - types:
        for target in _targets(node, path):
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            yield Import(module, place, target, node in lazy)


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
    named = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else origin for name in named]


IMPORTS = [found for module, path in MODULES.items() for found in imports_of(module, path)]
OWN = [found for found in IMPORTS if found.top == "trainbeacon"]


def places(part: str) -> dict[str, int]:
    """The layer of each folder of a part of the package."""
    return {name: layer for layer, line in enumerate(LAYERS[part]) for name in line.split()}


@pytest.mark.parametrize("part", LAYERS)
def test_every_folder_has_its_layer(part: str) -> None:
    """A folder that is in no layer would escape the order."""
    found = {folder_of(module, part) for module in MODULES} - {"", "__main__"}
    assert found <= set(places(part))


@pytest.mark.parametrize("part", LAYERS)
def test_imports_point_one_way(part: str) -> None:
    """The write side knows no exporter and the read side no training: neither imports the other."""
    layer = places(part)
    wrong = []
    for found in OWN:
        importer, target = folder_of(found.importer, part), folder_of(found.target, part)
        inside = importer in layer and target in layer and importer != target
        if inside and layer[target] >= layer[importer]:
            wrong.append(f"{found.place} imports {found.target}")
    assert [] == sorted(wrong)


def test_no_import_circle() -> None:
    """Every file can be read, and loaded, before the ones that use it."""
    imported: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OWN:
        if not found.lazy and found.target != found.importer:
            imported[found.importer].add(found.target)
    while loose := [module for module, targets in imported.items() if not targets & set(imported)]:
        for module in loose:
            del imported[module]
    assert {} == imported


def test_no_folder_is_crowded() -> None:
    """A folder's list is read at one glance. The package itself has the folders of the design, and in `cli/`
    each command is a file."""
    folders = {path.parent for path in MODULES.values()} - {PACKAGE, PACKAGE / "cli"}
    entries = {
        folder: [
            path for path in folder.iterdir() if path in MODULES.values() or (path / "__init__.py").is_file()
        ]
        for folder in folders
    }
    crowded = {
        str(f.relative_to(PACKAGE)): len(e) - 1 for f, e in entries.items() if len(e) - 1 > MOST_ENTRIES
    }
    assert {} == crowded


def test_notify_knows_nothing_of_training() -> None:
    """The bridge runs beside Alertmanager, where nobody trains."""
    wrong = [i for i in OWN if i.folder == "notify" and folder_of(i.target, "trainbeacon") in NOT_FOR_NOTIFY]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_read_side_does_not_write_black_boxes() -> None:
    """Collectors see a rank through the reader only, so they cannot change what they report."""
    readers = [i for i in OWN if i.folder == "exporter" or i.importer == "trainbeacon.blackbox.reader"]
    wrong = [i for i in readers if i.target == "trainbeacon.blackbox.writer"]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_prometheus_client_only_on_the_read_side() -> None:
    """A training process that is served from elsewhere never loads prometheus_client."""
    allowed = {"exporter", "notify", "demo", "testing"}
    wrong = [i for i in IMPORTS if i.top == "prometheus_client" and i.folder not in allowed]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_frameworks_only_where_they_are_used() -> None:
    """torch and its like: in integrations and the demo, and inside functions of the write side."""
    wrong = [
        i
        for i in IMPORTS
        if i.top in FRAMEWORKS
        and i.folder not in {"integrations", "demo"}
        and not (i.lazy and i.folder == "recorder")
    ]
    assert [] == [f"{i.place} imports {i.target}" for i in wrong]


def test_environment_is_read_in_two_places() -> None:
    """Only config and identity read environment variables, so each has one meaning and one check."""
    readers = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if {"environ", "getenv", "environb"} & set(names):
                readers.add(folder_of(module, "trainbeacon"))
    assert readers <= {"config", "identity"}


@pytest.mark.parametrize("heavy", ["torch", "numpy", "prometheus_client", "h11", "yaml"])
def test_importing_the_package_loads_nothing_heavy(heavy: str) -> None:
    """`import trainbeacon` needs no framework and takes no time from a script that may not use it."""
    program = "import json, sys, trainbeacon; trainbeacon.start; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "" == done.stderr
    assert heavy not in json.loads(done.stdout)
