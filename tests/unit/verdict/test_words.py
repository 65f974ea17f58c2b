"""The words of each condition are those of the alert rule of its name, and so are its limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from trainbeacon.notify import wording
from trainbeacon.notify.webhook import Alert
from trainbeacon.verdict import conditions, limits
from trainbeacon.verdict.alerts import rules, words_of
from trainbeacon.verdict.judge import Finding

RULES = sorted((Path(__file__).parents[3] / "prometheus/rules").glob("*/*.yml"))


def test_words_are_those_of_the_rules() -> None:
    """What `top` reads without a YAML parser is what Prometheus reads with one."""
    expected = []
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    labels, notes = rule["labels"], rule["annotations"]
                    of_whom = (rule["alert"], labels["severity"], labels.get("reason", ""))
                    expected.append((*of_whom, notes["summary"], notes["action"]))
    found = [(each.alert, each.severity, each.reason, each.summary, each.action) for each in rules()]
    assert expected == found


@pytest.mark.parametrize("name", limits.DEFAULTS)
def test_limits_are_those_of_the_rules(name: str) -> None:
    """A run is judged by the same limit with and without Prometheus."""
    text = "\n".join(path.read_text() for path in RULES)
    after = (
        r"(?:(\d+) \* )?"
        + rf'run:training_threshold:max{{name="{name}"}}'
        + r"\s*or on \(cluster, namespace, run\)\s*"
    )
    # `0 * anything + LIMIT`, or `(another threshold or on (...) LIMIT + 0 * anything)`
    plain, nested = r"0 \* [^\n]*? \+ ([\d.]+)", r"\([^\n]*? or on \([^)]*\) ([\d.]+) \+ "
    found = re.findall(f"{after}(?:{nested}|{plain})", text)
    # A multiple of the limit has the same multiple of its default.
    assert {limits.DEFAULTS[name]} == {float(one or other) / float(times or 1) for times, one, other in found}


def test_every_condition_has_its_alert() -> None:
    """A sentence that no alert says would be a second wording."""
    source = Path(conditions.__file__).read_text()
    named = set(re.findall(r'"(Training\w+)"', source))
    assert len(named) > 15
    assert set() == {name for name in named if words_of(name).alert != name}


def urgency_on_dashboards(alert: str, severity: str) -> int:
    """What the recorded weight is of an alert of this name and severity, the highest first on a page."""
    (rule,) = re.findall(
        r"record: run_rank:training_alert:weight\s+expr: \|(.*?)\n\n",
        next(path.read_text() for path in RULES if path.name == "dashboards.yml"),
        re.DOTALL,
    )
    lines = re.findall(r'(\d+) \* ALERTS{alertname=~?"([^"]+)"([^}]*)}', rule)
    return max(
        int(weight)
        for weight, names, rest in lines
        if re.fullmatch(names, alert) and ("severity" not in rest or f'severity="{severity}"' in rest)
    )


def test_one_order_in_top_on_dashboards_and_in_messages() -> None:
    """Whichever two alerts fire together, all three say the same of them first."""
    shipped = sorted({(each.alert, each.severity) for each in rules() if each.severity != "none"})
    top = {each: Finding(*each, summary="").order for each in shipped}
    pages = {each: -urgency_on_dashboards(*each) for each in shipped}
    assert len(set(top.values())) > 10
    by_top = [sorted(shipped, key=lambda each: (top[each], each))]
    assert by_top == [sorted(shipped, key=lambda each: (pages[each], each))]
    assert len(set(top.values())) == len(set(pages.values()))
    labels = [{"alertname": alert, "severity": severity} for alert, severity in by_top[0]]
    sent = wording.in_order(Alert(firing=True, labels=each) for each in labels)
    assert labels == [dict(each.labels) for each in sent]
