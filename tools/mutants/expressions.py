"""Alert rules that are broken in one place: an operator, a number, a wait, or a label that is matched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Rule = Mapping[str, Any]

#: Texts, selectors' braces, ranges, offsets, lists of labels and names are neither numbers nor operators.
_TOKENS = re.compile(
    r"""(?P<braces>\{(?:"(?:[^"\\]|\\.)*"|[^}"])*\})
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<range>\[[^\]]*\])
      | (?P<offset>\boffset\s+\w+)
      | (?P<labels>\b(?:on|by|ignoring|group_left|group_right)\s*\([^()]*\))
      | (?P<name>[A-Za-z_:][\w:]*)
      | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
      | (?P<comparison>==|!=|<=|>=|<|>)
    """,
    re.VERBOSE,
)
_OPPOSITES = {"==": "!=", "!=": "==", "<": ">", "<=": ">", ">": "<", ">=": "<"}
_SETS = {"and": "unless", "unless": "and"}
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_UNITS = {"s": 1, "m": 60, "h": 3600}


def mutants(rule: Rule) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rule broken in every one way, each with what was done to it.

    Numbers and waits are halved and doubled, a comparison is turned round, `and` is taken for `unless`, and
    each label of a match, each matcher of a selector and each alternative in one is left out.
    """
    for what, expression in _expressions(str(rule["expr"])):
        yield what, {**rule, "expr": expression}
    seconds = _seconds(str(rule["for"]))
    for other in (seconds // 2, 2 * seconds) if seconds else (120,):
        yield f"for {rule['for']} -> {other}s", {**rule, "for": f"{other}s"}


def _seconds(duration: str) -> int:
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))


def _expressions(text: str) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for token in _TOKENS.finditer(text):
        for what, other in _broken(token):
            seen[what] = seen.get(what, 0) + 1
            place = f" #{seen[what]}" if seen[what] > 1 else ""
            yield what + place, text[: token.start()] + other + text[token.end() :]


def _broken(token: re.Match[str]) -> Iterator[tuple[str, str]]:
    found = token[0]
    if token.lastgroup == "comparison":
        yield f"{found} -> {_OPPOSITES[found]}", _OPPOSITES[found]
    elif token.lastgroup == "name" and found in _SETS:
        yield f"{found} -> {_SETS[found]}", _SETS[found]
    elif token.lastgroup == "number":
        value = float(found)
        for other in (value / 2, 2 * value) if value else (1.0,):
            yield f"{found} -> {other:g}", f"{other:g}"
    elif token.lastgroup == "labels":
        yield from _without_a_label(found)
    elif token.lastgroup == "braces":
        yield from _without_a_matcher(found)


def _without_a_label(found: str) -> Iterator[tuple[str, str]]:
    kind, _, inside = found.partition("(")
    labels = [label.strip() for label in inside.rstrip(")").split(",") if label.strip()]
    for label in labels:
        rest = ", ".join(other for other in labels if other != label)
        yield f"{kind.strip()} without {label}", f"{kind}({rest})"


def _without_a_matcher(found: str) -> Iterator[tuple[str, str]]:
    matchers = list(_MATCHER.finditer(found))
    for matcher in matchers:
        rest = ",".join(other[0] for other in matchers if other is not matcher)
        if rest or not matcher[1].startswith("__"):
            yield f"without {matcher[0]}", "{" + rest + "}" if rest else ""
        for part in alternatives(matcher[3]) if "~" in matcher[2] else ():
            changed = matcher[0].replace(matcher[3], part)
            kept = ",".join(changed if other is matcher else other[0] for other in matchers)
            yield f"{matcher[0]} -> {part}", "{" + kept + "}"


def alternatives(pattern: str) -> Iterator[str]:
    """The pattern without one of its alternatives, and with nothing else."""
    names = pattern.split("|")
    for name in names if len(names) > 1 else ():
        yield "|".join(other for other in names if other != name)
