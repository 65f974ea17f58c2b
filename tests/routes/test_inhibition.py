"""Who mutes whom: each part of each rule of inhibition has an alert that tells when it is broken.

A mutant is the shipped configuration with one matcher, one name of an alternative or one label of `equal`
taken away or changed. Each is loaded into a real Alertmanager, beside the alerts below. It is killed when
others are muted there than should be, and they are those that its rules say, so that the kill is no accident.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.routes.served import SECONDS, Alertmanager, serving
from tools.mutants.inhibitions import MATCHER, Rule, mutants

Labels = Mapping[str, str]


@cache
def _read(matcher: str) -> tuple[str, str, re.Pattern[str]]:
    found = MATCHER.fullmatch(matcher)
    assert found is not None, matcher
    name, kind, wanted = found.groups()
    return name, kind, re.compile(wanted if "~" in kind else re.escape(wanted))


def matches(matchers: list[str], labels: Labels) -> bool:
    """Whether labels satisfy all matchers, as Alertmanager reads them."""
    read = map(_read, matchers)
    return all(
        bool(wanted.fullmatch(labels.get(name, ""))) != kind.startswith("!") for name, kind, wanted in read
    )


def muted(rules: list[Rule], alerts: Mapping[str, Labels]) -> set[str]:
    """The alerts that the rules mute. One that could mute its source as well is left alone."""
    found = set()
    for rule in rules:
        sources = {name for name, labels in alerts.items() if matches(rule["source_matchers"], labels)}
        targets = {name for name, labels in alerts.items() if matches(rule["target_matchers"], labels)}
        for target in targets:
            able = sources - targets if target in sources else sources
            key = [alerts[target].get(label, "") for label in rule["equal"]]
            if any(key == [alerts[source].get(label, "") for label in rule["equal"]] for source in able):
                found.add(target)
    return found


def labelled(alertname: str, severity: str, run: str, **labels: str) -> dict[str, str]:
    found = {"alertname": alertname, "severity": severity, "run": run, **labels}
    return {name: value for name, value in found.items() if value}


def pair(source: str, target: str, run: str, key: str = "run", **labels: str) -> Iterator[dict[str, str]]:
    """A source with its target, which it mutes; and targets that differ in one label, which it does not."""
    severity, own = ("critical", "warning") if "GpuLost" in source else ("warning", "warning")
    if source in ("TrainingRunFailed", "TrainingRankLost", "TrainingRanksLost"):
        severity = own = "critical"
    base = {"cluster": "c", "namespace": "n", **labels}
    yield labelled(source, severity, run, **base)
    yield labelled(target, own, run, **base)
    yield labelled("TrainingOther", own, run, **base)  # a target of no rule
    alone = {**base, "instance": "alone"} if key == "gpu" else base
    for name in (target, "TrainingOther"):  # nothing that mutes is with them
        yield labelled(name, own, f"{run}-alone" if run else "", **alone)
    for label in ("cluster", "namespace", *labels):
        yield labelled(target, own, run, **{**base, label: "other"})
    if key == "run":
        yield labelled(target, own, f"{run}-other", **base)
        # Neither has a run: absent labels are equal, and must not count.
        yield labelled(source, severity, "", **base, of=run)
        yield labelled(target, own, "", **base, of=run)


def _situations() -> Iterator[dict[str, str]]:
    for target in ("TrainingRankLost", "TrainingRanksLost", "TrainingStalled"):
        yield from pair("TrainingRunFailed", target, f"failed-{target}")
    for source in ("TrainingRankLost", "TrainingRanksLost"):
        yield from pair(source, "TrainingStalled", f"stalled-{source}")
    for target in ("TrainingThroughputDrop", "TrainingGpuUnderused"):
        yield from pair("TrainingStraggler", target, f"straggler-{target}")
    for target in ("TrainingGpuUnderused", "TrainingThroughputDrop", "TrainingGoodputLow"):
        yield from pair("TrainingInputBound", target, f"input-{target}")
    for target in (
        "TrainingGpuXid",
        "TrainingGpuMemoryErrors",
        "TrainingGpuRecoveryNeeded",
        "TrainingGpuLinkErrors",
    ):
        yield from pair("TrainingGpuLost", target, "", key="gpu", instance=f"i-{target}", gpu="3")
        without = {"instance": f"j-{target}", "cluster": "c", "namespace": "n"}
        yield labelled("TrainingGpuLost", "critical", "", **without)
        yield labelled(target, "warning", "", **without)
    # A page and the warnings of its run.
    page = {"cluster": "c", "namespace": "n"}
    yield labelled("TrainingStalled", "critical", "page", **page)
    for target in ("TrainingThroughputDrop", "TrainBeaconExporterBlind", "TrainingRunNameCollision"):
        yield labelled(target, "warning", "page", **page)
    for label in page:
        yield labelled("TrainingThroughputDrop", "warning", "page", **{**page, label: "other"})
    yield labelled("TrainingThroughputDrop", "warning", "page-other", **page)
    yield labelled("SomethingElse", "critical", "", **page)
    yield labelled("SomethingElse", "warning", "", **page)
    yield labelled("TrainingNote", "info", "page", **page)
    for name, severity in (("TrainingThroughputDrop", "warning"), ("TrainingPlateau", "info")):
        yield labelled(name, severity, "noted", **page)
    # Alone with a run each: nothing else may mute, or be muted by, what a broken rule would take for it.
    yield labelled("TrainingGoodputLow", "warning", "calm", **page)
    yield labelled("TrainingThroughputDrop", "warning", "calm", **page)
    yield labelled("TrainingGpuLost", "critical", "gpus", **page, instance="k", gpu="0")
    yield labelled("TrainingRankLost", "critical", "gpus", **page, instance="k", gpu="0")


def name_of(labels: Labels) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()))


ALERTS = {name_of(labels): labels for labels in _situations()}


def with_sentinel(rules: list[Rule], number: int) -> list[Rule]:
    """The rules, and one whose target is muted only in this configuration, which shows that it is loaded."""
    return [
        *rules,
        {
            "source_matchers": ['alertname = "Sentinel"', 'end = "source"'],
            "target_matchers": ['alertname = "Sentinel"', f'end = "target {number}"'],
            "equal": ["of"],
        },
    ]


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    file = Path(__file__).resolve().parents[2] / "alertmanager/alertmanager.yml"
    return list(yaml.safe_load(file.read_text())["inhibit_rules"])


def test_the_page_mutes_what_follows_from_it_and_nothing_else(rules: list[Rule]) -> None:
    """The whole table, in words: the first two alerts of each situation, a page's warning, and no more."""
    names = muted(rules, ALERTS)
    each = [ALERTS[name] for name in names]
    found = {f"{one['alertname']} {one.get('run') or one.get('instance')}" for one in each}
    of_gpus = ("Xid", "MemoryErrors", "RecoveryNeeded", "LinkErrors")
    assert found == {
        *(f"{name} failed-{name}" for name in ("TrainingRankLost", "TrainingRanksLost", "TrainingStalled")),
        *(f"TrainingStalled stalled-{name}" for name in ("TrainingRankLost", "TrainingRanksLost")),
        *(f"{name} straggler-{name}" for name in ("TrainingThroughputDrop", "TrainingGpuUnderused")),
        *(
            f"{name} input-{name}"
            for name in ("TrainingGpuUnderused", "TrainingThroughputDrop", "TrainingGoodputLow")
        ),
        *(f"TrainingGpu{name} i-TrainingGpu{name}" for name in of_gpus),
        "TrainingThroughputDrop page",
    }
    assert len(found) == len(names)


def test_every_mutant_is_killed_on_a_real_alertmanager(
    alertmanager: str, repository: Path, tmp_path: Path, rules: list[Rule]
) -> None:
    """The shipped rules mute in a real Alertmanager what they should; no broken one does."""
    expected = muted(rules, ALERTS)
    survivors = [name for name, changed in mutants(rules) if muted(changed, ALERTS) == expected]
    assert [] == survivors
    with serving(alertmanager, repository, tmp_path, {}) as server:
        shipped = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
        server.post(*ALERTS.values())
        everything = [("as shipped", rules), *mutants(rules)]
        for number, (name, changed) in enumerate(everything):
            _wait_for(server, shipped, with_sentinel(changed, number), muted(changed, ALERTS), name, number)


def _wait_for(
    server: Alertmanager,
    shipped: Mapping[str, Any],
    rules: list[Rule],
    wanted: set[str],
    name: str,
    number: int,
) -> None:
    """Until the server mutes exactly the wanted under these rules."""
    server.load({**shipped, "inhibit_rules": rules})
    target = {"alertname": "Sentinel", "end": f"target {number}", "of": "test"}
    server.post({"alertname": "Sentinel", "end": "source", "of": "test"}, target)
    deadline = time.monotonic() + SECONDS
    while True:
        alerts = server.alerts()
        suppressed = {name_of(each["labels"]) for each in alerts if each["status"]["state"] == "suppressed"}
        if suppressed == wanted | {name_of(target)}:
            return
        difference = suppressed ^ (wanted | {name_of(target)})
        assert time.monotonic() < deadline, f"{name}: {sorted(difference)}"
        threading.Event().wait(0.02)


def test_there_are_mutants_of_every_rule(rules: list[Rule]) -> None:
    """Each rule of inhibition is broken in its sources, targets and labels that must be equal."""
    names = [name for name, _ in mutants(rules)]
    for number in range(1, len(rules) + 1):
        own = [name for name in names if name.startswith(f"rule {number} ")]
        assert {"source", "target", "withou", "is gon"} <= {
            name.removeprefix(f"rule {number} ")[:6] for name in own
        }
    assert 60 < len(names)
