"""Every path of this repository that a page, a comment or a docstring names is there."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.targets.pages import REPOSITORY, pages

FOLDERS = (
    "alertmanager",
    "benchmarks",
    "deploy",
    "docs",
    "examples",
    "exporter",
    "grafana",
    "prometheus",
    "tests",
    "tools",
)
MARKDOWN = pages("*.md", *(f"{folder}/**/*.md" for folder in FOLDERS))
SOURCES = pages(
    "Makefile",
    ".ci/*",
    "*.toml",
    *(f"{folder}/**/*.{end}" for folder in FOLDERS for end in ("py", "yml", "yaml", "c", "h")),
)
#: Files of the reader's own in examples, and of other projects.
OTHERS = {
    "addresses.txt", "alertmanager.yml", "campaign.jsonl", "data", "kustomization.yaml", "last.pt",
    "notify.yaml", "nvidia-bug-report.sh",
    "settings.yml", "train.py", "truth.json", "values.yaml", "web.yml", "web-config.yml",
}  # fmt: skip
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_QUOTED = re.compile(r"`([^`\s]+)`")
#: What looks like a file of this repository: from one of its folders on, or by its name.
_FROM_ROOT = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*\w")
_BY_NAME = re.compile(r"^(?:[\w-]+/)*[\w.-]+\.(?:py|md|yml|yaml|tmpl|tpl|sbatch|sh|c|h)$|^(?:[\w-]+/)+$")


@cache
def there() -> list[str]:
    """Every file and folder of the repository, from its root."""
    found = []
    for folder in (*FOLDERS, ".ci"):
        found += [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / folder).rglob("*")]
    return [*found, *FOLDERS, *(path.name for path in REPOSITORY.iterdir())]


def is_there(name: str, page: Path) -> bool:
    """Whether a path exists from the root, from the page's folder, or as the end of some path."""
    name = name.rstrip("/").rstrip(".")
    if any((base / name).exists() for base in (REPOSITORY, page.parent)):
        return True
    return any(fnmatch.fnmatch(path, pattern) for path in there() for pattern in (name, f"*/{name}"))


def named_in_markdown(text: str) -> Iterator[str]:
    """The paths that a page's quotations name."""
    for quoted in _QUOTED.findall(text):
        if _BY_NAME.match(quoted) or _FROM_ROOT.fullmatch(quoted):
            yield quoted


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link within the repository leads to a file that is there."""
    targets = [link for link in _LINK.findall(page.read_text("utf-8")) if not re.match(r"\w+:", link)]
    assert [] == [link for link in targets if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_paths_on_pages_are_right(page: Path) -> None:
    """A file that was moved is moved in the words about it too."""
    named = set(named_in_markdown(page.read_text("utf-8"))) - OTHERS
    assert [] == sorted(name for name in named if not is_there(name, page))


@pytest.mark.parametrize("folder", [*FOLDERS, ""])
def test_paths_in_comments_are_right(folder: str) -> None:
    """Comments, docstrings and messages that name a file from the root on name one that is there."""
    sources = [path for path in SOURCES if str(path.relative_to(REPOSITORY)).startswith(folder)]
    wrong = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in sources
        for name in set(_FROM_ROOT.findall(path.read_text("utf-8")))
        if re.search(r"\.\w+$", name) and "*" not in name and not is_there(name, path)
    ]
    assert [] == sorted(wrong)


@pytest.mark.parametrize("package", [path for path in SOURCES if path.name == "__init__.py"], ids=str)
def test_lists_of_modules_are_right(package: Path) -> None:
    """A package whose docstring lists its modules lists those that are there."""
    docstring = ast.get_docstring(ast.parse(package.read_text("utf-8"))) or ""
    listed = [line for line in docstring.splitlines() if re.match(r"\s*\w+\.py\b", line)]
    names = [name for line in listed for name in re.findall(r"\b\w+\.py\b", line)]
    assert [] == [name for name in names if not (package.parent / name).exists()]


def test_index_leads_to_every_page() -> None:
    """docs/README.md lists each page of docs/ for at least one reader."""
    index = (REPOSITORY / "docs/README.md").read_text("utf-8")
    linked = {link for link in _LINK.findall(index) if "/" not in link}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"} == linked
