"""The rules keep house: what promtool accepts and an operator would still regret.

`problems` reads one rule as pint would, against the catalogue and the other rules. Each kind of problem
has a broken rule below that shows that it is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.promql import selectors, walk
from trainbeacon import catalogue

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(REPOSITORY.glob("prometheus/rules/*/*.yml"))
RUNBOOKS = "https://github.com/trainbeacon/trainbeacon/blob/main/prometheus/runbooks"
SEVERITIES = {"critical", "warning", "info", "none"}
ANNOTATIONS = {"summary", "description", "action", "runbook_url"}
#: Of alerts that end by evidence: what closed the incident, empty until then.
CLOSED = "closed"
TARGET_LABELS = {"cluster", "namespace", "job", "instance", "pod"}
KEPT = {"cluster", "namespace"}
#: Labels of which no two things in the world have the same value: they need no place beside them.
UNIQUE = {"uuid", "gpu_uuid"}
#: What Prometheus itself serves or adds, with the labels that it has.
OTHERS = {
    "up": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity", "reason", "run", "rank", "hostname", "gpu"},
    "scrape_samples_scraped": set[str](),
    "scrape_duration_seconds": set[str](),
    "scrape_samples_post_metric_relabeling": set[str](),
    "scrape_sample_limit": set[str](),
    "prometheus_rule_evaluation_failures_total": {"rule_group"},
    "prometheus_rule_group_last_duration_seconds": {"rule_group"},
    "prometheus_rule_group_interval_seconds": {"rule_group"},
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": {"UUID"},  # of dcgm-exporter
    "node_gpu_hourly_cost": {"node"},  # of OpenCost
}
COUNTER_FUNCTIONS = {"rate", "irate", "increase", "resets"}
UNSTABLE = {"topk", "bottomk", "limitk", "limit_ratio", "count_values"}
EXPERIMENTAL = {
    "mad_over_time",
    "sort_by_label",
    "sort_by_label_desc",
    "info",
    "double_exponential_smoothing",
}
KINDS = {"By": "by", "Without": "without", "Include": "on", "Exclude": "ignoring"}
COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
RECORDED = re.compile(r"\b[a-z]+(?:_[a-z]+)*:[a-z0-9_]+:[a-z0-9_]+\b")

Rule = dict[str, Any]


def groups() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield file, group


RULES: list[Rule] = [rule for _, group in groups() for rule in group["rules"]]
ALERTS: list[Rule] = [rule for rule in RULES if "alert" in rule]
RECORDS: dict[str, Rule] = {rule["record"]: rule for rule in RULES if "record" in rule}


def made_labels(node: Any) -> set[str]:
    """The labels that an expression makes itself."""
    calls = [each for each in walk(node) if isinstance(each, promql.Call)]
    return {call.args[1].val for call in calls if call.func.name == "label_replace"}


def labels_of(name: str) -> set[str] | None:
    """The labels that a series of that name can have, or None if nothing makes such a series."""
    base = re.sub(r"_(sum|count|bucket)$", "", name)
    if metric := catalogue.BY_NAME.get(name) or catalogue.BY_NAME.get(base):
        return TARGET_LABELS | set(metric.label_names) | ({"le"} if metric.buckets else set())
    if name in RECORDS:
        return _recorded_labels()[name]
    return TARGET_LABELS | OTHERS[name] if name in OTHERS else None


@cache
def _recorded_labels() -> dict[str, set[str]]:
    """The labels of all recorded series. Rules read each other in circles: they gather until no more come."""
    parsed = {name: promql.parse(rule["expr"]) for name, rule in RECORDS.items()}
    read = {name: {part.name for part in selectors(expression)} for name, expression in parsed.items()}
    known = {
        name: made_labels(expression).union(
            *(labels_of(part) or set() for part in read[name] if part not in RECORDS)
        )
        for name, expression in parsed.items()
    }
    while True:
        more = {
            name: known[name].union(*(known[part] for part in read[name] & set(RECORDS))) for name in known
        }
        if more == known:
            return known
        known = more


def grouping(node: Any) -> list[tuple[str, set[str]]]:
    """How a node names the labels that it keeps, drops or matches on."""
    modifier = getattr(node, "modifier", None)
    modifier = getattr(modifier, "matching", modifier)
    if modifier is None:
        return [("by", set())] if isinstance(node, promql.AggregateExpr) else []
    return [(KINDS[str(modifier.type).rpartition(".")[2]], set(modifier.labels))]


def selector_problems(node: Any) -> Iterator[str]:
    known = labels_of(node.name)
    if known is None:
        yield f"nothing makes {node.name}"
        return
    for matcher in node.matchers.matchers:
        if matcher.name not in known:
            yield f"{node.name} has no label {matcher.name}"
        known_limits = {*catalogue.THRESHOLDS, "metric:.+_min", "metric:.+_max"}
        if node.name == "run:training_threshold:max" and matcher.value not in known_limits:
            yield f"no run can set the threshold {matcher.value}"


def call_problems(node: Any) -> Iterator[str]:
    if node.func.name in EXPERIMENTAL:
        yield f"{node.func.name} is experimental"
    for selector in selectors(node) if node.func.name in COUNTER_FUNCTIONS else ():
        metric = catalogue.BY_NAME.get(re.sub(r"_(sum|count|bucket)$", "", selector.name))
        foreign = selector.name in OTHERS and selector.name.endswith("_total")
        if not foreign and (metric is None or metric.type not in ("counter", "histogram")):
            yield f"{node.func.name} of {selector.name}, which is no counter"


def label_problems(node: Any) -> Iterator[str]:
    known = made_labels(node).union(*(labels_of(each.name) or set() for each in selectors(node)))
    for kind, labels in grouping(node):
        if labels - known:
            yield f"{kind} names the unknown labels {sorted(labels - known)}"
        if kind in ("by", "on") and not labels >= KEPT and not labels & UNIQUE:
            yield f"{kind} loses cluster or namespace"


def join_problems(node: Any) -> Iterator[str]:
    """A join fails to evaluate in the minute in which its one side is two; recorded info is always one."""
    many = {"ManyToOne": node.rhs, "OneToMany": node.lhs}
    one = next((side for card, side in many.items() if card in str(getattr(node.modifier, "card", ""))), None)
    for selector in selectors(one) if one is not None else ():
        metric = catalogue.BY_NAME.get(selector.name)
        if metric is not None and metric.type == "info":
            yield f"joins with raw {selector.name}"


def division_problems(node: Any) -> Iterator[str]:
    divisor = node.rhs.expr if isinstance(node.rhs, promql.ParenExpr) else node.rhs
    guarded = isinstance(divisor, promql.BinaryExpr) and str(divisor.op) in (">", "!=")
    if not guarded and not isinstance(divisor, promql.NumberLiteral):
        yield "naked division"


def expression_problems(rule: Rule) -> Iterator[str]:
    nodes = list(walk(promql.parse(rule["expr"])))
    for node in nodes:
        yield from label_problems(node)
        if isinstance(node, promql.VectorSelector):
            yield from selector_problems(node)
        elif isinstance(node, promql.Call):
            yield from call_problems(node)
        elif isinstance(node, promql.AggregateExpr) and str(node.op) in UNSTABLE:
            yield f"{node.op} changes its mind"
        elif isinstance(node, promql.BinaryExpr):
            yield from join_problems(node)
            if str(node.op) == "/":
                yield from division_problems(node)
    functions = {node.func.name for node in nodes if isinstance(node, promql.Call)}
    if functions & {"absent", "absent_over_time"} and rule.get("for", "0s") == "0s":
        yield "absent without for"
    # What only the run can know has no default: `metric:<name>_min` and `_max`.
    thresholds = rule["expr"].count('run:training_threshold:max{name="')
    if len(re.findall(r"run:training_threshold:max\{[^}]*\}\s+or\b", rule["expr"])) != thresholds:
        yield "threshold without a default behind or"


def alert_problems(rule: Rule) -> Iterator[str]:
    name, labels, annotations = rule["alert"], rule.get("labels", {}), rule.get("annotations", {})
    if name != "Watchdog" and not re.fullmatch(r"(Training|TrainBeacon)[A-Z][A-Za-z]+", name):
        yield "name without our prefix"
    if labels.get("severity") not in SEVERITIES:
        yield "no severity"
    if set(labels) - {"severity", "reason"} or "{{" in str(labels):
        yield "labels beside severity and reason, or with a value in them"
    if set(annotations) - {CLOSED} != ANNOTATIONS:
        yield f"annotations are not {sorted(ANNOTATIONS)}"
    if "{{" in annotations.get("summary", "") + annotations.get("action", ""):
        yield "summary and action are fixed sentences"
    if annotations.get("runbook_url") != f"{RUNBOOKS}/{name}.md":
        yield "runbook_url of another alert"
    # What goes on firing does so with the annotations of before: it would be resolved with an empty `closed`.
    if "for" not in rule or (name != "Watchdog" and ("keep_firing_for" in rule) == (CLOSED in annotations)):
        yield "for, and one of keep_firing_for and closed, are not said"
    nodes = list(walk(promql.parse(rule["expr"])))
    judged = any(str(getattr(node, "op", "")) in COMPARISONS for node in nodes)
    if not judged and not any(getattr(node, "name", "") in RECORDS for node in nodes):
        yield "fires whenever the series exists"
    description = annotations.get("description", "")
    for used in RECORDED.findall(description):
        if used not in RECORDS:
            yield f"nothing makes {used}"
    if "$labels.rank" in description and "hostname" not in description:
        yield "rank without its host"
    for query in re.findall(r'printf "((?:[^"\\]|\\.)*)"[^|}]*\| query', description):
        yield from query_problems(query)


def query_problems(query: str) -> Iterator[str]:
    """Of an expression in a text, its labels yet to be filled in."""
    filled = re.sub(r"%(\[1\])?s,?", "", query).replace('\\"', '"')
    filled = re.sub(r"%(\[\d\])?q", '".+"', filled)
    for node in walk(promql.parse(filled)):
        if isinstance(node, promql.VectorSelector):
            found = selector_problems(node)
            yield from (problem for problem in found if not problem.endswith("the threshold .+"))


def problems(rule: Rule) -> list[str]:
    """What is wrong with one rule."""
    found = list(expression_problems(rule))
    # Of Prometheus, or of a cluster, as a whole.
    if rule.get("record", "").startswith(("trainbeacon:", "cluster:")):
        found = [problem for problem in found if problem != "by loses cluster or namespace"]
    if "alert" in rule:
        found += alert_problems(rule)
    elif not RECORDED.fullmatch(rule["record"]):
        found.append("name is not level:metric:operations")
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_keeps_house(rule: Rule) -> None:
    """No rule of ours has a problem that is known to mislead whoever relies on it."""
    assert problems(rule) == []


BROKEN = {
    "nothing makes training_lossy": {"expr": "training_lossy"},
    "training_loss has no label phase": {"expr": 'training_loss{phase="x"}'},
    "no run can set the threshold stall": {"expr": 'run:training_threshold:max{name="stall"} or vector(1)'},
    "threshold without a default behind or": {"expr": 'run:training_threshold:max{name="stall_seconds"} > 1'},
    "increase of training_loss, which is no counter": {"expr": "increase(training_loss[5m])"},
    "mad_over_time is experimental": {"expr": "mad_over_time(training_loss[5m])"},
    "by names the unknown labels ['rang']": {"expr": "max by (cluster, namespace, rang) (training_loss)"},
    "by loses cluster or namespace": {"expr": "max by (run) (training_loss)"},
    "on loses cluster or namespace": {"expr": "training_loss and on (run) training_step"},
    "joins with raw training_rank_info": {
        "expr": "training_loss * on (cluster, namespace, run, rank) group_left (hostname) training_rank_info"
    },
    "rank without its host": {
        "annotations": {"description": "Run {{ $labels.run }}, rank {{ $labels.rank }}."}
    },
    "training_step has no label gpu": {
        "annotations": {
            "description": '{{ with printf "training_step{gpu=%q}" $labels.run | query }}{{ end }}'
        }
    },
    "topk changes its mind": {"expr": "topk(1, training_loss)"},
    "naked division": {"expr": "training_loss / training_step"},
    "absent without for": {"expr": 'absent(up{job="trainbeacon"})'},
    "name is not level:metric:operations": {"record": "training_thing", "expr": "training_loss"},
    "name without our prefix": {"alert": "LossHigh"},
    "no severity": {"labels": {"severity": "page"}},
    "labels beside severity and reason, or with a value in them": {
        "labels": {"severity": "info", "reason": "{{ $value }}"}
    },
    f"annotations are not {sorted(ANNOTATIONS)}": {"annotations": {}},
    "summary and action are fixed sentences": {"annotations": {"summary": "{{ $value }}"}},
    "runbook_url of another alert": {"annotations": {"runbook_url": f"{RUNBOOKS}/Other.md"}},
    "for, and one of keep_firing_for and closed, are not said": {"alert": "TrainingNew"},
    "fires whenever the series exists": {"alert": "TrainingNew", "expr": "training_loss"},
    "nothing makes run:training_nothing:max": {
        "annotations": {"description": 'query "run:training_nothing:max"'}
    },
}


@pytest.mark.parametrize(("problem", "broken"), BROKEN.items(), ids=BROKEN)
def test_lint_finds(problem: str, broken: Rule) -> None:
    """A rule broken in one way is reported as broken in that way."""
    name = {} if "record" in broken else {"alert": "TrainingNew"}
    assert problem in problems({"expr": "training_loss > 1", **name, **broken})


#: Groups that judge by windows of minutes and read every series of every rank or GPU: at thousands of ranks
#: they would not fit into an interval of 15 s (docs/scale.md). No page waits for them but those of a GPU's
#: errors.
ONCE_A_MINUTE = (
    "trainbeacon-anomaly-series",
    "trainbeacon-checkpoints",
    "trainbeacon-dashboards-windows",
    "trainbeacon-goodput",
    "trainbeacon-gpu-hours",
    "trainbeacon-hardware-windows",
    "trainbeacon-identity-gpus",
    "trainbeacon-learning-windows",
    "trainbeacon-memory",
    "trainbeacon-numerics-windows",
    "trainbeacon-progress-windows",
    "trainbeacon-stragglers-long-steps",
    "trainbeacon-stages",
    "trainbeacon-watchers-slow",
)


def test_groups_are_portable() -> None:
    """Only keys that Prometheus 2.42 knows, own intervals only where it is said why, no name twice."""
    assert [set(group) for _, group in groups() if set(group) - {"interval"} != {"name", "rules"}] == []
    slow = {group["name"]: group["interval"] for _, group in groups() if "interval" in group}
    assert slow == dict.fromkeys(ONCE_A_MINUTE, "1m")
    names = [group["name"] for _, group in groups()]
    assert sorted(set(names)) == sorted(names)
    assert len(RECORDS) == sum("record" in rule for rule in RULES)


#: Groups that read each other, because each would be too long with the other's rules: what one has found
#: the other sees an evaluation later, which neither who is lost nor what is stalled depends on.
NEIGHBOURS = {"trainbeacon-life", "trainbeacon-progress", "trainbeacon-health", "trainbeacon-quality"}


def test_recorded_series_of_other_groups_are_never_in_a_hurry() -> None:
    """An alert reads steps of its own group, evaluated just before it, of rules/recording, and neighbours."""
    shared = {
        rule["record"]
        for file, group in groups()
        if file.parent.name == "recording" or group["name"] in NEIGHBOURS
        for rule in group["rules"]
        if "record" in rule
    }
    for file, group in groups():
        before: set[str] = set()
        for rule in group["rules"]:
            used = {each.name for each in selectors(promql.parse(rule["expr"]))} & set(RECORDS)
            used.discard(rule.get("record", ""))  # what it said at the last evaluation
            own = {each["record"] for each in group["rules"] if "record" in each} & shared
            if file.stem != "dashboards":  # a picture may be an interval late
                assert used <= (shared - own if "alert" in rule else shared) | before, (
                    rule.get("alert") or rule["record"]
                )
            before.add(rule.get("record", ""))


#: Windows over all ranks that two rules read all the same: a recorded series of each would cost more.
TWICE = {
    "rate(training_phase_seconds_total{}[2m])",  # mean and range, once a minute
    "last_over_time(training_loss_nonfinite_total{}[5m])",  # the second time of ranks with a NaN
    "increase(training_self_seconds_total{}[5m])",  # the second time by cause, of long steps
    "increase(training_steps_total{}[5m])",
}


def test_no_window_over_all_ranks_is_read_by_two_rules() -> None:
    """At thousands of ranks they are what evaluation costs: each is recorded once, and read from there."""
    found: dict[str, set[str]] = {}
    for rule in RULES:
        for node in walk(promql.parse(rule["expr"])):
            windows = [
                arg for arg in getattr(node, "args", None) or () if isinstance(arg, promql.MatrixSelector)
            ]
            for name in (window.vector_selector.name for window in windows):
                metric = catalogue.BY_NAME.get(re.sub(r"_(sum|count|bucket)$", "", name))
                if metric is not None and metric.level == "rank":
                    found.setdefault(str(node), set()).add(rule.get("record") or rule["alert"])
    assert set() == {window for window, rules in found.items() if len(rules) > 1} - TWICE


def test_every_limit_that_a_run_may_set_is_read() -> None:
    """A limit that no rule reads would be taken without a word and change nothing."""
    text = "".join(rule["expr"] for rule in RULES)
    assert [] == [name for name in catalogue.THRESHOLDS if f'name="{name}"' not in text]


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    """The link in a message leads to a page: what is meant, what is hurt, likely causes, and what to do."""
    pages = {page.stem: page.read_text() for page in REPOSITORY.glob("prometheus/runbooks/*.md")}
    assert set(pages) == {rule["alert"] for rule in ALERTS}
    for name, text in pages.items():
        headings = [line for line in text.splitlines() if line.startswith("#")]
        assert headings == [f"# {name}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
        causes = re.search(r"## Diagnosis\n(?:.*\n)*Likely causes, the likeliest first: .+; .+\n", text)
        assert causes or name == "TrainingRunFinished", name  # of which there is no cause to look for
        for used in RECORDED.findall(text):
            assert used in RECORDS, (name, used)
        for used in re.findall(r"\b(?:training|trainbeacon)_[a-z_]+\b", RECORDED.sub("", text)):
            assert used in catalogue.BY_NAME, (name, used)


def test_every_alert_is_tested_firing_and_quiet() -> None:
    """Each alert has a scenario in which it fires and a moment in which it does not."""
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for file in REPOSITORY.glob("tests/rules/*.test.yml")
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    firing = {name for name, fires in cases if fires}
    quiet = {name for name, fires in cases if not fires} | {"Watchdog"}  # which is never quiet
    assert firing == quiet == {rule["alert"] for rule in ALERTS}
