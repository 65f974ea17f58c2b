"""Rules of inhibition that are broken in one place: a source, a target, or a label that must be equal."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from tools.mutants.expressions import alternatives

Rule = dict[str, Any]
#: A matcher of Alertmanager: name, operator, value.
MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"(.*)"\s*')


def mutants(rules: list[Rule]) -> Iterator[tuple[str, list[Rule]]]:
    """Every rule of inhibition broken in every one way, with what was done."""
    for number, rule in enumerate(rules):
        for name, change in _broken(rule):
            changed = copy.deepcopy(rules)
            changed[number] = change
            yield f"rule {number + 1} {name}", changed
        yield f"rule {number + 1} is gone", rules[:number] + rules[number + 1 :]


def _broken(rule: Rule) -> Iterator[tuple[str, Rule]]:
    for label in rule["equal"]:
        yield (
            f"without {label} in equal",
            {**rule, "equal": [each for each in rule["equal"] if each != label]},
        )
    for side in ("source_matchers", "target_matchers"):
        for place, matcher in enumerate(rule[side]):
            rest = [*rule[side][:place], *rule[side][place + 1 :]]
            if rest:
                yield f"{side} without {matcher}", {**rule, side: rest}
            name, kind, value = MATCHER.fullmatch(matcher).groups()  # type: ignore[union-attr]
            other = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}[kind]
            yield f"{side} {name} {other}", {**rule, side: [*rest, f'{name} {other} "{value}"']}
            for part in alternatives(value):
                yield f"{side} {name} {kind} {part}", {**rule, side: [*rest, f'{name} {kind} "{part}"']}
