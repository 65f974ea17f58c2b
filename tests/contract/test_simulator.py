"""The simulator covers the catalogue: what a real GPU job serves, a simulated one serves too."""

from __future__ import annotations

from tests.simulated import READY, simulated
from trainbeacon import catalogue
from trainbeacon.simulate.scenarios import SCENARIOS

#: GPUs that are cut into instances are not simulated; `trainbeacon notify` is another program.
NOT_SIMULATED = {"training_gpu_mig_info"}
#: Only real programs have them.
OTHER_SOURCES = {"notify"}


def names_and_labels(*scenarios: str) -> dict[str, set[frozenset[tuple[str, str]]]]:
    """Every metric that a fleet serves over some minutes, with the labels of its series."""
    found: dict[str, set[frozenset[tuple[str, str]]]] = {}
    with simulated(*scenarios, ranks=8, runs=4, nodes=2, speed=10) as fleet:
        for at in (READY / 2, READY + 5, READY + 100):
            for one in fleet.at(at):
                found.setdefault(one.name, set()).add(one.labels)
    return found


def test_every_metric_of_a_job_is_simulated() -> None:
    """Dashboards and rules tried on the simulator would else be tried without it."""
    served = names_and_labels("nan", "crash", "xid", "hang")
    missing = {
        metric.name
        for metric in catalogue.ALL
        if metric.source not in OTHER_SOURCES and not {metric.name, f"{metric.name}_count"} & served.keys()
    }
    assert NOT_SIMULATED == missing


def test_closed_label_sets_are_complete() -> None:
    """Every phase, state and kind that a rule may ask for has its series; test data is not simulated."""
    served = names_and_labels("nan", "crash", "xid", "hang")
    for metric in catalogue.ALL:
        if metric.name not in served or metric.type == "histogram":
            continue
        for label in metric.labels:
            told = {dict(labels)[label.name] for labels in served[metric.name] if label.name in dict(labels)}
            assert set(label.values) - {"test"} <= told | OPTIONAL.get(metric.name, set()), metric.name


#: Label values that a job serves only if it has them.
OPTIONAL = {
    "training_learning_rate": {"1", "2", "3"},
    "training_evaluations_since_best": {"train"},
    "training_best_loss": {"train"},
    "trainbeacon_errors_total": {"reader"},
}


def test_the_simulator_stays_within_all_budgets() -> None:
    """Nothing that it serves is dropped, or a figure of the scale test would be too low."""
    with simulated(*SCENARIOS, ranks=16, runs=4, nodes=2, speed=10) as fleet:
        dropped = [
            value for one, value in fleet.at(READY).items() if one.name == "trainbeacon_series_dropped_total"
        ]
    assert {0.0} == set(dropped)
