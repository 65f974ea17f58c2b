"""What is wrong, in the alerts' own words: one sentence on the phone, in `top` and at the head of a page."""

from __future__ import annotations

from typing import Any

from grafana.common import LEVELS, PLACED, link, placed
from grafana.panels import Query, Texts
from grafana.tables import Table
from trainbeacon.verdict import alerts

RUNBOOKS = "https://github.com/trainbeacon/trainbeacon/blob/main/prometheus/runbooks"
#: What is at fault, by what `run_rank:training_culprit:reason` says.
CULPRITS = {
    7: ("first to end badly", "red"),
    6: ("lost", "red"),
    5: ("not in the collective", "red"),
    4: ("in another phase, or ended", "orange"),
    3: ("NaN began there", "red"),
    2: ("the others wait for it", "orange"),
}
COLORS = dict(LEVELS.values())
#: How a row says which rule it is: two rules of one name differ in severity and words.
_KEY = '"verdict", " ", "alertname", "severity"'
#: That nothing fires, in the place of a rule.
_QUIET = "ok"


#: What is said of rules that share name and severity and ask for different things.
DEPENDS = "That depends on the reason: the runbook, a click on the verdict away, has a part for each."


def sentences() -> Texts:
    """The summary of each rule by its key, and what is said where nothing fires."""
    found = {f"{words.alert} {words.severity}": (words.summary, "text") for words in alerts.rules()}
    return found | {_QUIET: ("No alert fires.", "text")}


def actions() -> Texts:
    """What to do first, by the same keys: where that depends on more than them, where to read it."""
    several: dict[str, set[str]] = {}
    for words in alerts.rules():
        several.setdefault(f"{words.alert} {words.severity}", set()).add(words.action)
    found = {key: (min(said) if len(said) == 1 else DEPENDS, "text") for key, said in several.items()}
    return found | {_QUIET: ("-", "text")}


def spoken(expr: str) -> str:
    """Alerts with their key twice, as the sentence and as what to do."""
    return f'label_replace(label_join({expr}, {_KEY}), "action", "$1", "verdict", "(.+)")'


def quiet(matchers: str) -> str:
    """The row of runs of which nothing fires."""
    ok = f"0 * (run:training_severity:worst{{{matchers}}} == 0)"
    for label in ("verdict", "action", "severity"):
        ok = f'label_replace({ok}, "{label}", "{_QUIET}", "", "")'
    return ok


def since(named: str, by: str, matchers: str) -> str:
    """Seconds for which the alerts of `named` have been active, with its labels."""
    firing = f'ALERTS{{{matchers}, alertstate="firing"}}'
    active = f"ALERTS_FOR_STATE{{{matchers}}} and ignoring (alertstate) {firing}"
    return f"0 * {named} + on ({by}) group_left () max by ({by}) (time() - ({active}))"


#: What tells apart the alerts whose age is asked for together.
BY = "cluster, namespace, run, alertname, severity"


def named(matchers: str) -> str:
    """What fires, with rank, host and GPU: an alert of the whole run has those of the rank to look at."""
    urgency = "run_rank:training_alert:urgency"
    culprit = f"topk by (cluster, namespace, run) (1, run_rank:training_culprit:reason{{{matchers}}})"
    return (
        f'({urgency}{{{matchers}, rank!=""}} or {urgency}{{{matchers}, rank="", instance=""}}'
        f" * on (cluster, namespace, run) group_left (rank, hostname, gpu) (0 * {culprit} + 1)"
        f" or on (cluster, namespace, run, instance, alertname, severity) {urgency}{{{matchers}}})"
    )


def verdict(matchers: str = "<run>", rows: int = 5) -> Table:
    """The head of a run's page: what fires, the most urgent first, who is at fault and what to do."""
    found = f"topk({rows}, {named(matchers)})"
    return Table(
        "Verdict",
        "What fires, the most urgent first and a cause before what follows from it, in the alerts' own words,"
        " with the rank at fault. It stays as long as the alert fires, also of a run that is gone.",
        (
            Query(f"sort_desc({spoken(found)} or {quiet(matchers)})"),
            Query(spoken(since(found, BY, matchers)), "since", unit="s", decimals=0, width=75),
        ),
        width=24,
        height=5,
        labels={"severity": 75, "verdict": 260, "rank": 45, "hostname": 120, "gpu": 40, "action": 0},
        first=("severity", "verdict", "rank", "hostname", "gpu", "since"),
        kept=("alertname",),
        hidden=("cluster", "namespace", "run", "instance"),
        colored=("severity",),
        colors=COLORS,
        wrapped=("verdict", "action"),
        texts={"verdict": sentences(), "action": actions()},
        links={
            "verdict": f"{RUNBOOKS}/${{__data.fields.alertname}}.md",
            "rank": link("ranks", "run", rank="rank"),
            "hostname": link("hardware", "run"),
        },
        empty="Not known: nothing of this run was seen in the last day.",
    )


def alerts_of(
    title: str,
    description: str,
    matchers: str,
    *,
    rows: int = 20,
    wide: bool = False,
    project: bool = True,
    **options: Any,
) -> Table:
    """What fires of many runs or of none, one line each, with run, rank and host; `wide` has more columns.

    `project` is whether the page has that variable, which links keep.
    """
    there = {
        "run": link("run", run="run", **PLACED),
        "rank": link("ranks", run="run", rank="rank", **PLACED),
        "hostname": link("hardware", run="run", **PLACED),
    }
    if not project:
        there = {name: url.replace("&${project:queryparam}", "") for name, url in there.items()}
    found = f"topk({rows}, {named(matchers)})"
    places = {"rank": 50, "hostname": 125} | ({"gpu": 45} if wide else {}) | {"instance": 140}
    return Table(
        title,
        description,
        (
            Query(f"sort_desc({placed(spoken(found))})"),
            Query(placed(spoken(since(found, BY, matchers))), "since", unit="s", decimals=0, width=75),
        ),
        labels={"severity": 75, "verdict": 260, "run": 170} | places | ({"action": 0} if wide else {}),
        first=("severity", "verdict", "since"),
        kept=("alertname", *PLACED.values()),
        hidden=("cluster", "namespace", *(() if wide else ("gpu", "action"))),
        colored=("severity",),
        colors=COLORS,
        wrapped=("verdict", "action") if wide else (),
        texts={"verdict": sentences()} | ({"action": actions()} if wide else {}),
        links={
            "verdict": f"{RUNBOOKS}/${{__data.fields.alertname}}.md",
        }
        | there,
        empty="No alert fires.",
        **options,
    )
