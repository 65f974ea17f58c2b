"""XIDs as they come, through the real pynvml, over the stand-in: classes, gaps, the end of the thread."""

from __future__ import annotations

import time

import pytest

from tests.nvml_stub.node import GPU0, GPU1, TWO_GPUS, Node, gpu, nvml
from tests.serving import wait_for
from trainbeacon.catalogue.hardware import XID_CLASSES
from trainbeacon.exporter.collectors.gpu.events import xid_class

TOLD = {"gpu0.events": 8, "gpu1.events": 8 | 1}
WATCHED = {gpu("xid_watched"): 1.0, gpu("xid_watched", 1): 1.0}


def counts(index: int, **of: int) -> dict[str, float]:
    return {gpu("xid_errors_total", index, **{"class": name}): float(of.get(name, 0)) for name in XID_CLASSES}


def scrape_until(node: Node, series: str, value: float) -> dict[str, float]:
    """The first scrape in which the series has the value."""

    def scraped() -> dict[str, float] | None:
        served = node.scrape()
        return served if served.get(series) == value else None

    return wait_for(scraped, what=f"{series} {value}")


def test_watched_gpus_begin_at_zero(node: Node) -> None:
    """Before its first XID a watched GPU has every class at 0, so that the first one is an increase."""
    node.show(TWO_GPUS, TOLD)
    assert {**GPU0, **GPU1, **WATCHED, **counts(0), **counts(1), **nvml("ok")} == node.scrape()


def test_xid_delivered_while_running(node: Node) -> None:
    """An XID is counted under its GPU and class, with its number and time, without a scrape to fetch it."""
    node.show(TWO_GPUS, TOLD)
    node.scrape()
    before = time.time()
    node.show(TWO_GPUS, TOLD, {"event1": "1 94", "event2": "1 74", "event3": "0 13", "event4": "1 74"})
    served = scrape_until(node, gpu("xid_errors_total", 1, **{"class": "nvlink"}), 2.0)
    at = [served.pop(gpu("xid_last_timestamp_seconds", index)) for index in (0, 1)]
    assert all(before <= moment <= time.time() for moment in at)
    assert {
        **GPU0,
        **GPU1,
        **WATCHED,
        **nvml("ok"),
        **counts(0, application=1),
        **counts(1, memory_contained=1, nvlink=2),
        gpu("xid_last", 0): 13.0,
        gpu("xid_last", 1): 74.0,
    } == served


def test_xids_before_the_watch_are_not_seen(node: Node) -> None:
    """What came before the first scrape is not told by the driver, and nothing is made up for it."""
    node.show(TWO_GPUS, TOLD, {"event1": "0 48"})
    node.scrape()
    node.show(TWO_GPUS, TOLD, {"event1": "0 48", "event2": "0 31"})
    served = scrape_until(node, gpu("xid_last"), 31.0)
    assert counts(0, application=1) == {name: value for name, value in served.items() if name in counts(0)}


def test_xids_of_a_gpu_that_is_lost_then(node: Node) -> None:
    """A GPU that falls off the bus keeps its XIDs beside up 0: they say why; its return loses no count."""
    node.show(TWO_GPUS, TOLD)
    node.scrape()
    node.show(TWO_GPUS, TOLD, {"event1": "1 79", "gpu1.fault": "lost"})
    served = scrape_until(node, gpu("xid_last", 1), 79.0)
    lost = {name: value for name, value in served.items() if 'gpu="1"' in name and "timestamp" not in name}
    assert {gpu("up", 1): 0.0, gpu("xid_last", 1): 79.0, **counts(1, gpu_lost=1)} == lost
    node.show(TWO_GPUS, TOLD, {"event1": "1 79"})
    node.tell("advance 61")
    assert 1.0 == node.scrape()[gpu("xid_watched", 1)]
    node.show(TWO_GPUS, TOLD, {"event1": "1 79", "event2": "1 48"})
    served = scrape_until(node, gpu("xid_last", 1), 48.0)
    expected = counts(1, gpu_lost=1, memory_uncorrectable=1)
    assert expected == {name: value for name, value in served.items() if name in expected}


def test_library_that_calls_the_wait_lost(node: Node) -> None:
    """While NVML answers every wait with `GPU is lost`, the thread goes on and finds later XIDs."""
    node.show(TWO_GPUS, TOLD, {"wait": "lost"})
    node.scrape()
    assert ["MainThread", "trainbeacon-xid"] == node.tell("threads")
    node.show(TWO_GPUS, TOLD, {"event1": "0 48"})
    scrape_until(node, gpu("xid_last"), 48.0)


@pytest.mark.parametrize(
    "gap",
    [
        {"gpu0.events": None},
        {"gpu0.events": 1},
        {"gpu0.events": "no_permission"},
        {"gpu0.register": "no_permission"},
        {"gpu0.register": "function_not_found"},
    ],
    ids=str,
)
def test_gpu_that_cannot_be_watched(node: Node, gap: dict[str, object]) -> None:
    """A GPU whose events are not to be had says so and has no counters at 0, which would look healthy."""
    node.show(TWO_GPUS, TOLD, gap)
    assert {**GPU0, **GPU1, gpu("xid_watched", 1): 1.0, **counts(1), **nvml("ok")} == node.scrape()


def test_library_without_events(node: Node) -> None:
    """Where NVML makes no event set no GPU is watched, no thread runs and all else is served."""
    node.show(TWO_GPUS, TOLD, {"event_sets": "not_supported"})
    assert {**GPU0, **GPU1, **nvml("ok")} == node.scrape()
    assert ["MainThread"] == node.tell("threads")


def test_wait_that_fails(node: Node) -> None:
    """When waiting fails for good, `watched` falls to 0 while the counts stay, and the thread ends."""
    node.show(TWO_GPUS, TOLD)
    node.scrape()
    node.show(TWO_GPUS, TOLD, {"wait": "unknown"})
    served = scrape_until(node, gpu("xid_watched"), 0.0)
    assert {**GPU0, **GPU1, **counts(0), **counts(1), **nvml("ok")} == served
    wait_for(lambda: node.tell("threads") == ["MainThread"], what="end of the thread")


def test_driver_reloaded_under_the_watch(node: Node) -> None:
    """After the driver was reloaded the GPUs are watched again, by one thread."""
    node.show(TWO_GPUS, TOLD)
    node.scrape()
    node.tell("advance 61")
    node.show(TWO_GPUS, TOLD, {"epoch": 2})
    assert {1.0} == {value for name, value in node.scrape().items() if "watched" in name}
    assert ["MainThread", "trainbeacon-xid"] == node.tell("threads")
    node.show(TWO_GPUS, TOLD, {"epoch": 2, "event1": "0 31"})
    scrape_until(node, gpu("xid_last"), 31.0)


def test_thread_ends_with_the_exporter(node: Node) -> None:
    """An exporter that ends within its process, as in thread mode, leaves no thread waiting for XIDs."""
    node.show(TWO_GPUS, TOLD)
    node.scrape()
    assert ["MainThread", "trainbeacon-xid"] == node.tell("threads")
    node.tell("drop")
    wait_for(lambda: node.tell("threads") == ["MainThread"], what="end of the thread")


def test_process_ends_while_xids_are_watched(node: Node) -> None:
    """A process that watches XIDs ends cleanly and at once."""
    node.show(TWO_GPUS, TOLD)
    node.scrape()
    assert 0 == node.end()


def test_classes_of_xids() -> None:
    """Each class is what the runbooks are written for; a number that we do not know is `other`."""
    known = {13: "application", 31: "application", 43: "application", 45: "application"}
    known |= {63: "memory_contained", 94: "memory_contained", 92: "memory_contained"}
    known |= dict.fromkeys((48, 64, 95, 140, 171, 172), "memory_uncorrectable")
    known |= {74: "nvlink", 144: "nvlink", 150: "nvlink"}
    known |= {62: "driver", 109: "driver", 119: "driver", 120: "driver"}
    known |= {79: "gpu_lost", 0: "other", 154: "other", 9999: "other"}
    assert known == {number: xid_class(number) for number in known}
    assert set(XID_CLASSES) >= {xid_class(number) for number in range(1000)}
