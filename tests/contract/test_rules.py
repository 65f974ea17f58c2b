"""The rules keep house. Each kind of problem that the lint looks for has a broken rule that shows it."""

from __future__ import annotations

import re

import promql_parser as promql
import pytest
import yaml

from tools.promql import selectors, walk
from tools.rule_lint import (
    ALERTS,
    ANNOTATIONS,
    RECORDED,
    RECORDS,
    REPOSITORY,
    RULES,
    RUNBOOKS,
    Rule,
    groups,
    problems,
)
from trainbeacon import catalogue


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
    "on loses ['run']": {
        "expr": "run:training_world_size:max > on (cluster, namespace) run:training_ranks_alive:count"
    },
    "on loses ['instance']": {
        "expr": "training_gpu_up * on (cluster, namespace, gpu) group_left () instance_gpu:training_rank:info"
    },
    "by loses run": {"expr": "sum by (cluster, namespace) (training_steps_total) > 1"},
    "run without its owner": {"expr": "run:training_ranks_alive:count > 1"},
    "a threshold without its name": {"expr": "run:training_threshold:max > 1"},
    "ALERTS without alertname": {"expr": 'ALERTS{alertstate="firing"}'},
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
