"""Which mutants of an alert its scenarios tell from the rule.

All mutants of one alert go through promtool at once: each is an alert of its own name beside the rule, over
the same recorded series. Only what an alert reads is evaluated, texts left out, so that this takes minutes
and not days.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.mutants.expressions import mutants

REPOSITORY = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"[A-Za-z_][\w]*(?::[\w]+)*")
_WRONG = re.compile(r'(?:alertname: (?P<alert>\w+)|expr: .*?alertname=\\+"(?P<asked>\w+)\\+".*), time:')
_ERROR = re.compile(r"rule: (\w+), time:")

Rule = Mapping[str, Any]


class ScenariosFailError(Exception):
    """The rules as shipped do not pass the scenarios."""


@dataclass(frozen=True)
class Mutant:
    """A rule of an alert with what was done to it.

    Attributes:
        alert: the alert's name.
        number: which of the rules of that name, from 0.
        what: what was done.
        rule: the broken rule.
    """

    alert: str
    number: int
    what: str
    rule: Rule = field(compare=False, hash=False)

    def __str__(self) -> str:
        place = f" ({reason})" if (reason := self.rule.get("labels", {}).get("reason")) else ""
        return f"{self.alert}{place}: {self.what}"


@dataclass(frozen=True)
class _File:
    """The scenarios of one file that name an alert."""

    path: Path
    content: Mapping[str, Any]
    cases: Sequence[Mapping[str, Any]]


def all_mutants(names: Iterable[str] = ()) -> dict[str, list[Mutant]]:
    """The mutants of each alert, or of those of these names."""
    wanted = set(names)
    return {
        alert: [
            Mutant(alert, number, what, broken)
            for number, rule in enumerate(rules)
            for what, broken in mutants(rule)
        ]
        for alert, rules in _alerts().items()
        if not wanted or alert in wanted
    }


def survivors(promtool: str | Path, alert: str, tried: Sequence[Mutant]) -> list[Mutant]:
    """Those mutants that no scenario of the alert tells from the rule.

    Raises:
        ScenariosFailError: the rule as shipped fails.
    """
    left = list(tried)
    for scenarios in _scenarios(alert):
        if left:
            left = _run(promtool, alert, scenarios, left)
    return left


@cache
def _groups() -> Mapping[Path, Sequence[Mapping[str, Any]]]:
    files = sorted(REPOSITORY.glob("prometheus/rules/*/*.yml"))
    return {path: yaml.safe_load(path.read_text("utf-8"))["groups"] for path in files}


@cache
def _alerts() -> Mapping[str, Sequence[Rule]]:
    found: dict[str, list[Rule]] = {}
    for groups in _groups().values():
        for group in groups:
            for rule in group["rules"]:
                if "alert" in rule:
                    found.setdefault(rule["alert"], []).append(rule)
    return found


@cache
def _test_files() -> Sequence[tuple[Path, Mapping[str, Any]]]:
    files = sorted(REPOSITORY.glob("tests/rules/*.test.yml"))
    return [(path, yaml.safe_load(path.read_text("utf-8"))) for path in files]


def _scenarios(alert: str) -> list[_File]:
    """The file with most scenarios first: it kills most."""
    found = []
    for path, content in _test_files():
        cases = [
            case
            for case in content["tests"]
            if any(test["alertname"] == alert for test in case.get("alert_rule_test", ()))
            or any(_asked(alert) in test["expr"] for test in case.get("promql_expr_test", ()))
        ]
        if cases:
            found.append(_File(path, content, cases))
    return sorted(found, key=lambda file: -len(file.cases))


def _asked(alert: str) -> str:
    return f'ALERTS{{alertname="{alert}", alertstate="firing"'


def _read(rule: Rule) -> set[str]:
    """What a rule reads: names of series, and alerts where it asks for ALERTS."""
    return set(_NAME.findall(rule["expr"]))


def _needed(alert: str, groups: Sequence[Mapping[str, Any]]) -> set[str]:
    """All that the alert depends on."""
    readers: dict[str, set[str]] = {}
    for group in groups:
        for rule in group["rules"]:
            readers.setdefault(rule.get("alert") or rule["record"], set()).update(_read(rule))
    needed, new = set(), {alert}
    while new:
        needed |= new
        new = {name for each in new for name in readers.get(each, ())} - needed
    return needed


def _run(promtool: str | Path, alert: str, file: _File, tried: Sequence[Mutant]) -> list[Mutant]:
    loaded = {(file.path.parent / name).resolve() for name in file.content["rule_files"]}
    groups = [group for path in _groups() if path in loaded for group in _groups()[path]]
    needed = _needed(alert, groups)
    left = {f"{alert}__{index}": mutant for index, mutant in enumerate(tried)}
    killed: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        rules, tests = Path(folder, "rules.yml"), Path(folder, "mutants.test.yml")
        while left:
            rules.write_text(_dump({"groups": list(_mutated(groups, needed, alert, left))}), "utf-8")
            tests.write_text(_dump(_tests(file, rules, needed, alert, left)), "utf-8")
            done = subprocess.run(
                [promtool, "test", "rules", tests], capture_output=True, text=True, check=False, timeout=900
            )
            said = done.stdout + done.stderr
            failed = {found["alert"] or found["asked"] for found in _WRONG.finditer(said)} | set(
                _ERROR.findall(said)
            )
            if alert in failed or failed - set(left) or (done.returncode and not failed):
                raise ScenariosFailError(f"{alert} in {file.path.name}: {said[-2000:]}")
            killed |= failed
            for name in failed:
                del left[name]
            if not _ERROR.search(said):  # an error ends a scenario before all its moments are compared
                break
    return list(left.values())


def _mutated(
    groups: Sequence[Mapping[str, Any]], needed: set[str], alert: str, left: Mapping[str, Mutant]
) -> Iterator[dict[str, Any]]:
    """The groups with what is needed, and behind the alert all mutants of it."""
    for group in groups:
        rules: list[Rule] = [
            _without_texts(rule) for rule in group["rules"] if (rule.get("alert") or rule["record"]) in needed
        ]
        places = [place for place, rule in enumerate(rules) if rule.get("alert") == alert]
        if places:
            broken = [rule for name, mutant in left.items() for rule in _renamed(alert, name, mutant)]
            rules[places[-1] + 1 : places[-1] + 1] = broken
        if rules:
            yield {**group, "rules": rules}


def _renamed(alert: str, name: str, mutant: Mutant) -> Iterator[Rule]:
    """All rules of the alert under another name, one of them broken."""
    for number, rule in enumerate(_alerts()[alert]):
        used = mutant.rule if number == mutant.number else rule
        expression = used["expr"].replace(f'alertname="{alert}"', f'alertname="{name}"')
        yield {**_without_texts(used), "alert": name, "expr": expression}


def _without_texts(rule: Rule) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "annotations"}


def _tests(
    file: _File, rules: Path, needed: set[str], alert: str, left: Mapping[str, Mutant]
) -> dict[str, Any]:
    cases = []
    for case in file.cases:
        series = [
            one for one in case["input_series"] if str(one["series"]).partition("{")[0].strip() in needed
        ]
        expected = [
            {
                "alertname": name,
                "eval_time": test["eval_time"],
                "exp_alerts": [
                    {"exp_labels": one.get("exp_labels", {})} for one in test.get("exp_alerts") or ()
                ],
            }
            for test in case.get("alert_rule_test", ())
            if test["alertname"] == alert
            for name in (alert, *left)
        ]
        asked = [
            {**test, "expr": test["expr"].replace(f'"{alert}"', f'"{name}"')}
            for test in case.get("promql_expr_test", ())
            if _asked(alert) in test["expr"]
            for name in (alert, *left)
        ]
        kept = {key: case[key] for key in ("name", "interval", "external_labels") if key in case}
        cases.append({**kept, "input_series": series, "alert_rule_test": expected, "promql_expr_test": asked})
    content = {
        key: file.content[key] for key in ("evaluation_interval", "group_eval_order") if key in file.content
    }
    return {**content, "rule_files": [str(rules)], "tests": cases}


def _dump(content: Mapping[str, Any]) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Without aliases, which promtool would have to resolve a thousand times."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
