"""What the pages of this repository quote: command lines, and paths of files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
#: A quotation is a command line if it begins with one of these.
PROGRAMS = (
    "amtool", "apt", "apt-get", "curl", "docker", "git", "helm", "install", "kubectl", "make", "mpirun",
    "pip", "podman", "prometheus", "promtool", "pytest", "python", "python3", "sbatch", "srun", "torchrun",
    "trainbeacon",
)  # fmt: skip
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_START = re.compile(rf"^(?:{'|'.join(PROGRAMS)}) [^=\s]")


def pages(*patterns: str) -> list[Path]:
    """The Markdown pages of these patterns, from the root of the repository."""
    return sorted({path for pattern in patterns for path in REPOSITORY.glob(pattern)})


@dataclass(frozen=True)
class Quoted:
    """A command line and the page that quotes it."""

    page: str
    command: str


def commands(page: Path) -> Iterator[Quoted]:
    """The command lines of a page: whole lines of its blocks of code, and quotations inside a sentence."""
    text = page.read_text("utf-8")
    name = str(page.relative_to(REPOSITORY))
    blocks = [line for block in _FENCE.findall(text) for line in _joined(block.split("\n")[1:-1])]
    prose = _FENCE.sub("", text)
    blocks += [line[4:] for line in _joined(prose.split("\n")) if line.startswith("    ")]
    inline = (" ".join(found.split()) for found in _CODE.findall(prose))
    for candidate in (*blocks, *inline):
        command = re.split(r"\s+# ", candidate)[0].strip().removeprefix("$ ")
        if _START.match(command):
            yield Quoted(name, command)


def _joined(lines: list[str]) -> list[str]:
    """The lines with those put together that a backslash continues."""
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).split("\n")
