"""What is said of an alert, whatever the channel: numbers, titles, links."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from tests.unit.notify.payloads import alert, annotated, notification
from trainbeacon.notify import wording
from trainbeacon.notify.webhook import Alert


def made(name: str = "TrainingStalled", status: str = "firing", **labels: str) -> Alert:
    return notification(alert(name, status, **labels)).alerts[0]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("no step for 51.93s,", "no step for 52 s,"),
        ("in 7.731% of the time", "in 8 % of the time"),
        ("99.5% and 0.5%", "100 % and 0.5 %"),
        ("loses 0.05131% of", "loses 0.05 % of"),
        ("took 350.2ms, 269.5us.", "took 350 ms, 270 us."),
        ("for 45s", "for 45 s"),
        ("for 2m 3s, 1h 2m 3s", "for 2m 3s, 1h 2m 3s"),
        ("Run lr-0.05s: v1.25s", "Run lr-0.05s: v1.25s"),
        ("3 rank(s), 12.5 times", "3 rank(s), 12.5 times"),
    ],
)
def test_numbers_are_rounded_for_people(said: str, read: str) -> None:
    """Whole seconds and percents; one figure below 1; names of runs stay as they are."""
    assert read == wording.for_people(said)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TrainingLossNotFinite", "NaN"),
        ("TrainingStalled", "Hang"),
        ("TrainingRankLost", "Rank lost"),
        ("TrainingGpuMemoryNearlyFull", "GPU memory nearly full"),
        ("TrainingGpusIdle", "GPUs idle"),
        ("TrainBeaconExporterBlind", "Exporter blind"),
        ("KubePodCrashLooping", "Kube pod crash looping"),
    ],
)
def test_a_fault_is_named_in_plain_words(name: str, words: str) -> None:
    """Also that of an alert of somebody else's rules."""
    assert words == wording.fault(made(name))


@pytest.mark.parametrize(
    ("labels", "at"),
    [
        ({}, "rank 3, node-7"),
        ({"rank": "3"}, "rank 3, node-7"),
        ({"rank": "4"}, "rank 4"),  # the description is of another rank
        ({"rank": "4", "hostname": "node-9", "gpu": "1"}, "rank 4, node-9, GPU 1"),
    ],
)
def test_the_place_is_rank_and_host(labels: dict[str, str], at: str) -> None:
    """From the labels, or from the description where the alert is of the whole run."""
    assert at == wording.place(made(**labels))


def test_a_place_without_a_rank_is_the_target() -> None:
    """What concerns an exporter names its instance."""
    plain = notification(annotated(alert(instance="10.0.0.1:9797"), description="d")).alerts[0]
    assert "10.0.0.1:9797" == wording.place(plain)


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        ("TrainingLossNotFinite", "trainbeacon-model"),
        ("TrainingGpuLost", "trainbeacon-hardware"),
        ("TrainingHostMemoryNearlyFull", "trainbeacon-hardware"),
        ("TrainingRankLost", "trainbeacon-ranks"),
        ("TrainingGoodputLow", "trainbeacon-run"),
        ("TrainBeaconExporterBlind", "trainbeacon-exporter"),
        ("SomethingElse", "trainbeacon-fleet"),
    ],
)
def test_the_dashboard_is_that_of_the_fault(name: str, uid: str) -> None:
    """Not always the run's own page."""
    assert wording.dashboard_url("https://g/", made(name)).startswith(f"https://g/d/{uid}?")


def test_a_dashboard_is_of_one_cluster_namespace_run_and_time() -> None:
    """Two clusters may have a run of that name; what is shown begins before the fault and ends after it."""
    labels = {"cluster": "eu 1", "namespace": "n&p", "run": "a+b", "rank": "3", "gpu": "0"}
    url = wording.dashboard_url("https://g", made(status="resolved", **labels))
    expected = "var-cluster=eu%201&var-namespace=n%26p&var-run=a%2Bb&var-rank=3&var-gpu=0"
    assert f"https://g/d/trainbeacon-ranks?{expected}&from=1772366696000&to=1772370000000" == url
    assert "" == wording.dashboard_url("", made())


def test_the_silence_link_matches_the_very_alert() -> None:
    """Alertmanager's own page opens with all labels as matchers, quotes included."""
    url = wording.silence_url("http://am/", {"run": 'a "b"', "alertname": "X"})
    assert 'http://am/#/silences/new?filter={alertname="X", run="a \\"b\\""}' == unquote(url)
