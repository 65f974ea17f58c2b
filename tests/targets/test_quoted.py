"""Every command line that a page quotes runs, in a short form; every path that it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from tests.serving import node, wait_for
from tests.targets.checkout import Checkout
from tests.targets.conftest import Play
from tests.targets.forms import QUOTED, Form, Run, Target
from tests.targets.pages import REPOSITORY, commands, pages
from tests.targets.test_targets import MAKEFILE, TARGETS

pytestmark = pytest.mark.timeout(900)

PAGES = pages(
    "*.md", "*/*.md", "docs/**/*.md", "alertmanager/**/*.md", "deploy/**/*.md", "prometheus/**/*.md"
)
FOUND = list(dict.fromkeys(quoted for page in PAGES for quoted in commands(page)))
COMMANDS = list(dict.fromkeys(quoted.command for quoted in FOUND))
ENTRIES = [(re.compile(pattern), form) for pattern, form in QUOTED]


def form_of(command: str) -> Form | None:
    """How a quoted command is run."""
    for pattern, form in ENTRIES:
        if match := pattern.fullmatch(command):
            return _filled(match, Run(form) if isinstance(form, str) else form)
    return None


def _filled(match: re.Match[str], form: Form) -> Form:
    if isinstance(form, Target):
        return Target(match.expand(form.name))
    if isinstance(form, Run):
        return replace(form, command=match.expand(form.command))
    return form


@pytest.fixture(scope="session")
def stalled_rank(checkout: Checkout) -> Iterator[None]:
    """A rank of this node that makes no step, where `trainbeacon stacks` and `top` look."""
    targets = checkout.boxes.parent / "targets"
    with node(checkout.boxes, sd_dir=str(targets)) as made:
        rank = made.rank(evidence_seconds=0.5, stacks_signal="SIGUSR1")
        rank.ask("step 3")
        wait_for(lambda: "evidence in" in rank.errors, what="evidence of the stall")
        exporter = urlsplit(made.url()).netloc
        checkout.values = {"{boxes}": str(made.folder), "{exporter}": exporter, "{targets}": str(targets)}
        yield


@pytest.mark.parametrize("command", COMMANDS)
def test_quoted_command_has_its_short_form(command: str) -> None:
    """A command line that nobody runs is wrong one day: give it an entry in QUOTED of forms.py."""
    form = form_of(command)
    assert form is not None
    assert not isinstance(form, Target) or form.name in TARGETS


@pytest.mark.parametrize("command", [one for one in COMMANDS if isinstance(form_of(one), Run)])
def test_quoted_command_runs(command: str, play: Play, stalled_rank: None) -> None:
    """What a reader types as it is quoted does what the page says, in so far as it ends well."""
    form = form_of(command)
    assert form is not None
    play(form)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("make ")])
def test_variables_of_make_are_read(command: str) -> None:
    """A variable in a quoted `make` line is one that the Makefile reads."""
    for name in re.findall(r" (\w+)=", command):
        assert f"$({name})" in MAKEFILE


@pytest.mark.parametrize("command", [one for one in COMMANDS if "trainbeacon[" in one])
def test_extra_exists(command: str) -> None:
    """An extra that a page has people install is declared."""
    extras = (REPOSITORY / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    for name in re.findall(r"trainbeacon\[([\w,]+)\]", command):
        assert all(re.search(rf"^{extra} = \[", extras, re.MULTILINE) for extra in name.split(","))
