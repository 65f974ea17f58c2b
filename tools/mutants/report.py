"""How many mutants died, which live and why, as text and as a page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.mutants.scenarios import Mutant

PAGE = Path(__file__).resolve().parents[2] / "docs/mutants.md"


@dataclass(frozen=True)
class Result:
    """What became of the mutants.

    Attributes:
        tried: how many, by alert.
        linted: how many of them the lint found.
        living: those that no test found.
        reasons: why some may live: patterns of their whole texts, with the reason.
    """

    tried: Mapping[str, int]
    linted: int
    living: tuple[Mutant, ...]
    reasons: Mapping[str, str]

    @property
    def total(self) -> int:
        """How many were made."""
        return sum(self.tried.values())

    @cached_property
    def explained(self) -> dict[str, list[Mutant]]:
        """Those that live with a reason, by it."""
        found: dict[str, list[Mutant]] = {}
        for mutant in self.living:
            if (reason := self._reason(mutant)) is not None:
                found.setdefault(reason, []).append(mutant)
        return found

    @cached_property
    def unexplained(self) -> list[Mutant]:
        """Those that live without one."""
        return [mutant for mutant in self.living if self._reason(mutant) is None]

    def _reason(self, mutant: Mutant) -> str | None:
        found = (reason for pattern, reason in self.reasons.items() if re.fullmatch(pattern, str(mutant)))
        return next(found, None)

    def summary(self) -> str:
        """In a few lines, each mutant that lives without a reason among them."""
        alive = len(self.living)
        lines = [
            f"{self.total} mutants of {len(self.tried)} alerts: {self.total - alive} found"
            f" ({(self.total - alive) / max(self.total, 1):.1%}; the lint {self.linted}, scenarios"
            f" {self.total - alive - self.linted}), {alive - len(self.unexplained)} live for a reason,"
            f" {len(self.unexplained)} without one"
        ]
        return "\n".join(lines + [f"  {mutant}" for mutant in self.unexplained])


def write(result: Result) -> None:
    """The page of the last whole run."""
    parts = [_HEAD.format(summary=result.summary().partition("\n")[0])]
    for reason, mutants in sorted(result.explained.items(), key=lambda item: -len(item[1])):
        parts.append(f"\n**{reason}** ({len(mutants)})\n\n")
        parts += [f"- `{mutant}`\n" for mutant in sorted(map(str, mutants))]
    if result.unexplained:
        parts.append("\n**No reason yet**\n\n")
        parts += [f"- `{mutant}`\n" for mutant in sorted(map(str, result.unexplained))]
    PAGE.write_text("".join(parts), "utf-8")


_HEAD = """<!-- Written by `make mutants`. -->
# Mutants of the alert rules

A test that passes says little until it has been seen to fail. `make mutants` breaks every alert rule in every
one way: a comparison is turned round, `and` becomes `unless`, each number and each `for` is halved and
doubled, and each label of a match, each matcher and each alternative of a matcher is left out. A mutant is
found when the lint of the rules (`tools/rule_lint.py`) or a scenario in `tests/rules/` fails.
`make mutants ARGS="--alert TrainingStalled"` tries one alert. Inhibitions have mutants of their own, which a
real Alertmanager judges with every run of the tests: all of them are found.

Last whole run: {summary}.

## What lives, and why
"""
