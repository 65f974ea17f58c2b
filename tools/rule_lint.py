"""The lint of the rules: what promtool accepts and an operator would still regret.

`problems` reads one rule as pint would, against the catalogue and the other rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from tools.promql import selectors, walk
from trainbeacon import catalogue

REPOSITORY = Path(__file__).resolve().parents[1]
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
    """All groups, with their files."""
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
    """Of series that nothing makes, and labels that they cannot have."""
    known = labels_of(str(node.name))
    if known is None:
        yield f"nothing makes {node.name}"
        return
    for matcher in node.matchers.matchers:
        if matcher.name not in known:
            yield f"{node.name} has no label {matcher.name}"
        known_limits = {*catalogue.THRESHOLDS, "metric:.+_min", "metric:.+_max"}
        if node.name == "run:training_threshold:max" and matcher.value not in known_limits:
            yield f"no run can set the threshold {matcher.value}"


def labels_kept(node: Any) -> set[str] | None:
    """The labels that tell the series of an expression apart, as its operators say, or None for a number."""
    if isinstance(node, promql.VectorSelector):
        found = labels_of(str(node.name)) or set()
        if node.name in RECORDS:  # the level in its name says which of them
            level = node.name.partition(":")[0]
            found = {label for label in found if label in KEPT or re.search(rf"(^|_){label}(_|$)", level)}
        return set(found)
    if isinstance(node, promql.AggregateExpr):
        return grouping(node)[0][1]
    if isinstance(node, promql.BinaryExpr):
        left, right = labels_kept(node.lhs), labels_kept(node.rhs)
        if left is None or right is None:
            return right if left is None else left
        return left | right if str(node.op) == "or" else right if "OneToMany" in _cardinality(node) else left
    below = [each for each in (getattr(node, "expr", None), getattr(node, "vector_selector", None)) if each]
    below += [
        each for each in getattr(node, "args", None) or () if not isinstance(each, promql.StringLiteral)
    ]
    known = [labels for each in below if (labels := labels_kept(each)) is not None]
    return set.union(*known, made_labels(node)) if known else None


def _included(node: Any) -> list[str]:
    """The labels that a join takes over from its one side."""
    return list(getattr(getattr(node, "modifier", None), "group_labels", None) or ())


def _cardinality(node: Any) -> str:
    return str(getattr(node.modifier, "card", ""))


def match_problems(rule: Rule, node: Any) -> Iterator[str]:
    """What is of a run is matched with that of the same run, what is of a GPU with that of the same node."""
    kinds = dict(grouping(node))
    sides = [labels_kept(node.lhs), labels_kept(node.rhs)] if isinstance(node, promql.BinaryExpr) else []
    if "on" in kinds and None not in sides:
        shared = set.intersection(*(side or set() for side in sides))
        of_gpus = "gpu" in (shared if "alert" in rule else kinds["on"])
        lost = shared & ({"run", "instance", "gpu"} if of_gpus else {"run"}) - kinds["on"]
        if lost:
            yield f"on loses {sorted(lost)}"


def aggregation_problems(rule: Rule, node: Any) -> Iterator[str]:
    """What is said of a run is not mixed with what is said of others."""
    inner = labels_kept(node.expr) or set()
    kept = grouping(node)[0][1]
    if "alert" in rule and "run" in inner and not kept & {"run", "instance"}:
        yield "by loses run"


def matcher_problems(rule: Rule, node: Any) -> Iterator[str]:
    """Of a series that only its matchers tell from others."""
    named = {matcher.name for matcher in node.matchers.matchers}
    if node.name == "run:training_threshold:max" and "name" not in named:
        yield "a threshold without its name"
    if "alert" in rule and node.name == "ALERTS" and "alertname" not in named:
        yield "ALERTS without alertname"


def call_problems(node: Any) -> Iterator[str]:
    """Of functions that may change, and of rates of what is no counter."""
    if node.func.name in EXPERIMENTAL:
        yield f"{node.func.name} is experimental"
    for selector in selectors(node) if node.func.name in COUNTER_FUNCTIONS else ():
        metric = catalogue.BY_NAME.get(re.sub(r"_(sum|count|bucket)$", "", selector.name))
        foreign = selector.name in OTHERS and selector.name.endswith("_total")
        if not foreign and (metric is None or metric.type not in ("counter", "histogram")):
            yield f"{node.func.name} of {selector.name}, which is no counter"


def label_problems(node: Any) -> Iterator[str]:
    """Of unknown labels, and of what mixes clusters or namespaces."""
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
    """Of divisors that may be 0."""
    divisor = node.rhs.expr if isinstance(node.rhs, promql.ParenExpr) else node.rhs
    guarded = isinstance(divisor, promql.BinaryExpr) and str(divisor.op) in (">", "!=")
    if not guarded and not isinstance(divisor, promql.NumberLiteral):
        yield "naked division"


def expression_problems(rule: Rule) -> Iterator[str]:
    """Of the expression of a rule."""
    nodes = list(walk(promql.parse(rule["expr"])))
    for node in nodes:
        yield from label_problems(node)
        if isinstance(node, promql.VectorSelector):
            yield from selector_problems(node)
            yield from matcher_problems(rule, node)
        elif isinstance(node, promql.Call):
            yield from call_problems(node)
        elif isinstance(node, promql.AggregateExpr):
            yield from aggregation_problems(rule, node)
            if str(node.op) in UNSTABLE:
                yield f"{node.op} changes its mind"
        elif isinstance(node, promql.BinaryExpr):
            yield from join_problems(node)
            yield from match_problems(rule, node)
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
    """Of an alert: its name, labels and texts."""
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
    owned = "owner" in {label for node in nodes for label in _included(node)}
    if not owned and "run" in (labels_kept(nodes[0]) or set()):
        yield "run without its owner"
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
