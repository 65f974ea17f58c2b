"""The model behind the numbers: what has to add up adds up, however seldom somebody looks."""

from __future__ import annotations

import itertools

import pytest

from tests.simulated import BEGIN, READY, simulated, values
from trainbeacon import catalogue
from trainbeacon.simulate.model.learning import Learning
from trainbeacon.simulate.model.noise import normal, uniform
from trainbeacon.simulate.model.trouble import Trouble
from trainbeacon.simulate.model.workload import WORKLOADS
from trainbeacon.testing import Series, series

TROUBLES = (
    (),
    ("straggler-compute",),
    ("hang",),
    ("pauses",),
    ("crash-resume",),
    ("throttling", "input-bound"),
)


def summed(scrape: dict[Series, float], name: str) -> dict[str, float]:
    """The sum over all other labels, by rank; of a series of the run under an empty rank."""
    sums: dict[str, float] = {}
    for one, value in scrape.items():
        if one.name == name:
            sums[one.label("rank")] = sums.get(one.label("rank"), 0.0) + value
    return sums


@pytest.mark.parametrize("names", TROUBLES)
def test_the_phases_of_each_rank_add_up_to_its_life(names: tuple[str, ...]) -> None:
    """Whatever happens, every second of a process is in one phase, and in one kind of goodput."""
    with simulated(*names, speed=5) as fleet:
        for seconds in (20.0, READY, READY + 30, READY + 200):
            scrape = fleet.at(seconds)
            lives = {
                rank: fleet.clock.now - start
                for rank, start in values(scrape, "training_start_timestamp_seconds").items()
                if scrape[series("training_state", run=fleet.run.name, rank=rank, state="running")]
            }
            phases = summed(scrape, "training_phase_seconds_total")
            assert {rank: pytest.approx(life, abs=1e-3) for rank, life in lives.items()} == {
                rank: phases[rank] for rank in lives
            }
            if lives:
                (kinds,) = summed(scrape, "training_goodput_seconds_total").values()
                assert kinds == pytest.approx(lives["0"], abs=1e-3)
                (run,) = summed(scrape, "training_run_seconds").values()
                assert run == pytest.approx(fleet.clock.now - BEGIN, abs=1e-3)


@pytest.mark.parametrize("names", TROUBLES)
def test_no_counter_ever_falls_within_a_process(names: tuple[str, ...]) -> None:
    """A counter that falls is a restart to Prometheus, and its rate a leap that never was."""
    counters = {metric.name for metric in catalogue.ALL if metric.type == "counter"}
    counters |= {f"training_step_duration_seconds_{part}" for part in ("bucket", "sum", "count")}
    with simulated(*names, ranks=2, nodes=1, speed=3, lasting=50.0) as fleet:
        before = fleet.at(10.0)
        for seconds in range(11, 260, 7):
            after = fleet.at(float(seconds))
            starts = [values(one, "training_start_timestamp_seconds") for one in (before, after)]
            if starts[0] == starts[1]:
                fallen = [
                    one
                    for one, value in before.items()
                    if one.name in counters and after.get(one, value) < value
                ]
                assert [] == fallen
            before = after


def test_the_totals_do_not_depend_on_who_looks() -> None:
    """A fleet scraped every second and one scraped once are at the same point of the same course."""
    with simulated("straggler-data", speed=5) as often, simulated("straggler-data", speed=5) as seldom:
        for second in range(1, 201):
            often.clock.now = BEGIN + second
            often.fleet.advance()
        left, right = often.at(200.5), seldom.at(200.5)
    for name in (
        "training_steps_total",
        "training_loss",
        "training_phase_seconds_total",
        "training_self_seconds_total",
    ):
        expected = {
            one: pytest.approx(value, rel=1e-6, abs=1e-4) for one, value in left.items() if one.name == name
        }
        assert expected == {one: value for one, value in right.items() if one.name == name}


def test_a_healthy_run_learns() -> None:
    """Loss falls, accuracy rises, the learning rate warms up, gradients settle."""
    with simulated(runs=2, ranks=2, speed=20) as fleet:
        early, late = fleet.at(20.0), fleet.at(400.0)
        run, workload = fleet.fleet.runs[1].name, fleet.fleet.runs[1].workload
    for split in ("train", "validation"):
        key = series("training_loss", run=run, rank=0, split=split)
        assert late[key] < 0.6 * early[key]
        key = series("training_accuracy_ratio", run=run, rank=0, split=split)
        assert early[key] + 0.1 < late[key] < 1.0
    rate = series("training_learning_rate", run=run, rank=0, group=0)
    norm = series("training_gradient_norm", run=run, rank=0)
    assert early[rate] < 0.8 * workload.learning_rate
    assert 0.0 < late[norm] < 1.0


def test_a_run_that_made_its_steps_finishes() -> None:
    """It says so, is served for a minute, and is gone; its GPUs idle and cool down."""
    with simulated(ranks=2, nodes=1, speed=500) as fleet:
        fleet.run.furthest = fleet.run.checkpoint_step = fleet.run.workload.steps_planned - 90_000
        fleet.run.relaunch()
        hot = fleet.at(60.0)
        while fleet.run.stage != "over":
            scrape = fleet.at(fleet.clock.now - BEGIN + 2)
        planned = scrape[series("training_steps_planned", run=fleet.run.name)]
        assert {planned} == set(values(scrape, "training_step").values())
        assert {1.0} == set(values(scrape, "training_state", state="finished").values())
        gone = fleet.at(fleet.clock.now - BEGIN + 300)
        assert {} == values(gone, "training_state")
        cooled = values(gone, "training_gpu_temperature_celsius")["0"]
        assert cooled < values(hot, "training_gpu_temperature_celsius")["0"] - 10
        assert values(gone, "training_gpu_power_watts")["0"] < 100


def test_gpus_follow_their_load_with_inertia() -> None:
    """Power rises within seconds, temperature within a minute, energy is the power over time."""
    with simulated(ranks=2, nodes=1) as fleet:
        for second in range(0, 55, 5):
            cold = fleet.at(float(second))
        warm = fleet.at(200.0)
        at = 200.0
        before = values(warm, "training_gpu_energy_joules_total")["0"]
        drawn = 0.0
        while at < 230.0:
            at += 1.0
            drawn += values(fleet.at(at), "training_gpu_power_watts")["0"]
        energy = values(fleet.now(), "training_gpu_energy_joules_total")["0"] - before
    assert values(warm, "training_gpu_power_watts")["0"] > 450
    assert 55 <= values(warm, "training_gpu_temperature_celsius")["0"] <= 80
    assert (
        values(cold, "training_gpu_temperature_celsius")["0"]
        < values(warm, "training_gpu_temperature_celsius")["0"]
    )
    assert energy == pytest.approx(drawn, rel=0.03)


def test_the_present_phase_is_one_and_since_when() -> None:
    """Exactly one phase is 1, and it began no later than now."""
    with simulated(speed=1) as fleet:
        for at in (5.0, 30.0, 50.0, 90.3, 91.7, 93.1, 400.0):
            scrape = fleet.at(at)
            assert {1.0} == set(summed(scrape, "training_phase").values())
            for since in values(scrape, "training_phase_start_timestamp_seconds").values():
                assert 0 <= fleet.clock.now - since < 40


def test_chance_is_even_and_repeatable() -> None:
    """The same question has the same answer; neighbouring questions have unrelated ones."""
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    drawn = [uniform(7, number) for number in range(4000)]
    assert 0.48 < sum(drawn) / len(drawn) < 0.52
    assert 0 <= min(drawn) < 0.01 < 0.99 < max(drawn) < 1
    scatter = [normal(7, number) for number in range(4000)]
    assert abs(sum(scatter) / len(scatter)) < 0.05
    assert sum(value * value for value in scatter) / len(scatter) == pytest.approx(1.0, rel=0.06)
    follow = [first * second for first, second in itertools.pairwise(scatter)]
    assert abs(sum(follow) / len(follow)) < 0.05


def test_a_run_whose_first_evaluation_is_nan_has_no_best_one_yet() -> None:
    """As where a NaN comes before it; the run goes on."""
    learning = Learning(WORKLOADS[0], 1, Trouble(nonfinite_from={0: 1}, nonfinite_everywhere_from=1))
    learning.evaluated(600)
    assert learning.best == {}
    assert learning.overfitting.evaluations == 0
