"""The exporter's own health, from what it counted and what lies in the directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.blackbox.writer import Writer
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.collectors.health import HealthCollector
from trainbeacon.exporter.health import Health


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[BoxDirectory]:
    descriptor = open_directory(str(tmp_path))
    yield BoxDirectory(descriptor)
    os.close(descriptor)


def served(collector: HealthCollector) -> dict[tuple[str, ...], float]:
    families = Families()
    collector.collect(families)
    return {
        (sample.name, *filter(None, sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_counts_begin_at_zero_and_add_up(directory: BoxDirectory) -> None:
    """Each kind of error and refusal is there before its first event, so that this is an increase."""
    health = Health()
    collector = HealthCollector(health, directory, "agent", clock=lambda: 7.0)
    before = served(collector)
    health.error("discovery")
    health.refused("method")
    health.refused("method")
    health.dropped(5)
    after = served(collector)
    assert before.keys() == after.keys()
    assert {
        ("trainbeacon_errors_total", "discovery"): (0.0, 1.0),
        ("trainbeacon_requests_refused_total", "method"): (0.0, 2.0),
        ("trainbeacon_series_dropped_total",): (0.0, 5.0),
    } == {key: (before[key], after[key]) for key in after if before[key] != after[key]}


def test_clock_of_the_node_is_served(directory: BoxDirectory) -> None:
    """The rules learn from it how far the node's clock is off."""
    collector = HealthCollector(Health(), directory, "agent", clock=iter([7.0, 8.5]).__next__)
    name = ("trainbeacon_clock_timestamp_seconds",)
    assert (7.0, 8.5) == (served(collector)[name], served(collector)[name])


def test_files_in_the_directory_are_told_apart(directory: BoxDirectory, tmp_path: Path) -> None:
    """Live boxes and what is no box are counted; a broken file once, however often it is looked at."""
    writer = Writer.create(str(tmp_path), {"run": "r", "rank": 0, "start": 1.0})
    (tmp_path / "foreign.box").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    collector = HealthCollector(Health(), directory, "agent")
    served(collector)
    shown = served(collector)
    writer.close()
    states = {key[1]: value for key, value in shown.items() if key[0] == "trainbeacon_blackboxes"}
    assert {"live": 1.0, "dead": 0.0, "invalid": 1.0} == states
    assert 1.0 == shown["trainbeacon_blackboxes_invalid_total",]
