"""Every make target and every script of the repository does what it is there for, in a short form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.targets.conftest import Play
from tests.targets.forms import MAKE, SCRIPTS, Elsewhere, Run, Target
from tests.targets.pages import REPOSITORY
from tools import environment

pytestmark = pytest.mark.timeout(900)

MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE)
STARTED = [
    str(path.relative_to(REPOSITORY))
    for folder in ("benchmarks", "examples", "tools")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
    if folder == "examples" or path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text()
]


def test_every_target_has_its_short_form() -> None:
    """A target that nobody runs in a test breaks unseen: give it an entry in MAKE of forms.py."""
    assert set(TARGETS) == set(MAKE)


def test_every_script_has_its_short_form() -> None:
    """The same for scripts: an entry in SCRIPTS of forms.py."""
    assert set(STARTED) == set(SCRIPTS)


def test_every_target_is_phony_and_explained() -> None:
    """`make` lists every target with what it does, and a file of its name does not keep it from running."""
    phony = re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)
    assert set(TARGETS) == {name for line in phony for name in line.split()}
    make = ["make", "--no-print-directory"]  # it says the folder where these tests themselves run under make
    shown = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert TARGETS == [line.split()[0] for line in shown.splitlines()]
    assert all(len(line.split()) > 2 for line in shown.splitlines())


def test_what_runs_elsewhere_says_why() -> None:
    """Nothing is left out without a reason, and what is covered by a target is covered by one that runs."""
    forms = [*MAKE.values(), *SCRIPTS.values()]
    assert all(form.reason for form in forms if isinstance(form, Elsewhere))
    assert {Run} == {type(MAKE[form.name]) for form in forms if isinstance(form, Target)}


@pytest.mark.parametrize("name", TARGETS)
def test_target_runs(name: str, play: Play) -> None:
    """The target ends well in its short form."""
    play(MAKE[name])


@pytest.mark.parametrize("name", STARTED)
def test_script_runs(name: str, play: Play) -> None:
    """The script ends well in its short form."""
    play(SCRIPTS[name])


def test_environment_that_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment is up to date, `make` comes to its command without a word."""
    monkeypatch.setattr(environment, "CACHE", tmp_path / "trainbeacon")
    made = environment.location()
    subprocess.run(
        [sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", made], check=True
    )
    (made / "trainbeacon.stamp").write_text(environment.wanted())
    program = "import sys; print(sys.prefix); sys.exit(7)"
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/environment.py", "python", "-c", program],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (7, f"{made}\n", "") == (done.returncode, done.stdout, done.stderr)
