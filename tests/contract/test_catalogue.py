"""The promise of names: what a metric is called says what it is, and its series stay within bounds."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from trainbeacon import catalogue
from trainbeacon.catalogue import Level, Metric

BASE_UNITS = {"seconds", "bytes", "ratio", "celsius", "watts", "joules", "hertz", "volts"}
OTHER_UNITS = re.compile(r"_(ms|us|ns|milliseconds|minutes|hours|percent|mb|mib|gb|gib|kilobytes|mhz)(_|$)")
#: Labels that Prometheus or Kubernetes add to every scraped series: ours would become `exported_...`.
LABELS_OF_A_SCRAPE = {"job", "instance", "pod", "namespace", "node", "container", "endpoint", "service"}

every_metric = pytest.mark.parametrize("metric", catalogue.ALL, ids=lambda metric: metric.name)


def test_no_name_is_defined_twice() -> None:
    """Two entries with one name would be two truths, and Prometheus refuses the scrape."""
    assert [] == [name for name, count in Counter(m.name for m in catalogue.ALL).items() if count > 1]


@every_metric
def test_name_is_snake_case_with_our_prefix(metric: Metric) -> None:
    """Operators find all our metrics by two prefixes."""
    assert re.fullmatch(r"(training|trainbeacon)(_[a-z0-9]+)+", metric.name)


@every_metric
def test_exporter_speaks_of_itself_under_its_own_prefix(metric: Metric) -> None:
    """`trainbeacon_` is the exporter's health and `training_` the job's."""
    assert (metric.group == "own health") == metric.name.startswith("trainbeacon_")


@every_metric
def test_name_ends_as_its_type_and_unit_say(metric: Metric) -> None:
    """A reader of a query knows type and unit from the name: `_total` is a counter, a base unit precedes."""
    ending = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    assert metric.name.endswith(ending)
    stem = metric.name.removesuffix(ending)
    assert not stem.endswith(("_total", "_info", "_bucket", "_sum", "_count", "_created"))
    if metric.unit:
        assert metric.unit in BASE_UNITS
        assert stem.endswith(f"_{metric.unit}")
    else:
        assert not stem.endswith(tuple(f"_{unit}" for unit in BASE_UNITS))
    assert not OTHER_UNITS.search(metric.name)


@every_metric
def test_timestamps_are_gauges_of_seconds(metric: Metric) -> None:
    """An age that we served would grow between scrapes without us; a Unix time does not."""
    if "_timestamp_" in metric.name:
        assert ("gauge", "seconds") == (metric.type, metric.unit)
    assert not re.search(r"_(age|ago|since)_seconds$", metric.name)


@every_metric
def test_help_is_one_sentence(metric: Metric) -> None:
    """Help is read in a tool-tip: one line, one sentence, with its full stop."""
    assert re.fullmatch(r"[A-Z0-9].*[^.\s]\.", metric.help)
    assert not re.search(r"\n|[.!?] +[A-Z]", metric.help)
    assert len(metric.help) <= 110


@every_metric
def test_labels_are_bounded(metric: Metric) -> None:
    """Every label is a closed set without repetition or has a limit, never neither, never both."""
    for label in metric.labels:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", label.name)
        assert bool(label.values) != bool(label.limit)
        assert label.bound >= 1
        assert len(set(label.values)) == len(label.values)
        assert all(label.values) or not label.values
        assert label.meaning


@every_metric
def test_labels_do_not_clash(metric: Metric) -> None:
    """No label is one that a scrape adds, one of the exposition's own, or there twice."""
    assert not LABELS_OF_A_SCRAPE & set(metric.label_names)
    assert not {"le", "quantile"} & set(metric.label_names)
    assert len(set(metric.label_names)) == len(metric.label_names)


@every_metric
def test_histograms_alone_have_buckets_and_few(metric: Metric) -> None:
    """A histogram has at most 12 buckets with +Inf, in order; nothing else has any."""
    assert (metric.type == "histogram") == bool(metric.buckets)
    assert len(metric.buckets) + 1 <= 12 or metric.type != "histogram"
    assert sorted(set(metric.buckets)) == list(metric.buckets)


@every_metric
def test_entry_is_complete(metric: Metric) -> None:
    """Source, level, stability and the version it came with are among those that exist."""
    assert metric.source in {*catalogue.COLLECTORS, "notify"}
    assert metric.level in catalogue.BUDGETS
    assert metric.stability in {"stable", "experimental"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", metric.since)


@pytest.mark.parametrize("level", catalogue.BUDGETS)
def test_level_fits_its_budget_at_worst(level: Level) -> None:
    """With every label at its bound, a rank, GPU, node or run stays within what operators were promised."""
    assert sum(metric.series for metric in catalogue.ALL if metric.level == level) <= catalogue.BUDGETS[level]


def test_budgets_are_those_of_the_documentation() -> None:
    """Operators size their Prometheus by these figures: raising one is a decision, not a side effect."""
    assert {"rank": 164, "gpu": 61, "node": 80, "run": 300} == catalogue.BUDGETS
