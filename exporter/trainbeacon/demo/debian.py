"""Runs Debian's Prometheus and Alertmanager from where their packages were unpacked.

Debian's builds read their pages and templates from /usr/share/prometheus, which an unpacked package does not
fill, and Alertmanager refuses to start without. So a copy of the program is run in which this path is
relative, in the folder that the package was unpacked into: no root, no namespace, nothing on the machine
changed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_FIXED = b"/usr/share/prometheus"
_RELATIVE = b"usr//share/prometheus"  # as long as the other: nothing else in the file may move


def runnable(program: Path) -> tuple[Path, Path | None]:
    """The program to run in place of `program`, and the folder to run it in; None if that is all the same."""
    program = program.resolve()
    tree = program.parents[2] if program.parent.parts[-2:] == ("usr", "bin") else Path("/")
    if tree == Path("/") or not (tree / "usr" / "share" / "prometheus").is_dir():
        return program, None
    copy = tree / "relocated" / program.name
    if not copy.exists():
        _relocate(program, copy)
    return copy, tree


def _relocate(program: Path, copy: Path) -> None:
    copy.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=copy.parent, delete=False) as file:
        file.write(program.read_bytes().replace(_FIXED, _RELATIVE))
    os.chmod(file.name, 0o700)
    os.replace(file.name, copy)  # another demo may be doing the same
