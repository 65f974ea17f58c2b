"""Every scenario does what its name says, to the rank that the truth names, and to nobody else."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tests.simulated import BEGIN, READY, Simulated, simulated, values
from trainbeacon.simulate.scenarios import SCENARIOS, Plan, spread
from trainbeacon.testing import Series, series

Scrape = dict[Series, float]
AFTER = READY + 90.0


def rate(before: Scrape, after: Scrape, name: str, **labels: object) -> dict[str, float]:
    """How much a counter of each rank grew, per step of its own."""
    steps = values(after, "training_steps_total")
    earlier = values(before, "training_steps_total")
    grown, old = values(after, name, **labels), values(before, name, **labels)
    return {rank: (grown[rank] - old[rank]) / (steps[rank] - earlier[rank]) for rank in old}


def victim(fleet: Simulated) -> str:
    """The rank at fault, as a label says it."""
    return str(fleet.truth[0].rank)


def others(fleet: Simulated, found: dict[str, float]) -> set[float]:
    """The values of all ranks but the one at fault."""
    return {value for rank, value in found.items() if rank != victim(fleet)}


def test_the_truth_names_what_happens_and_when() -> None:
    """A test of rules needs to know whom an alert has to name, and from when on."""
    with simulated("straggler-data", seed=3, lasting=60.0) as fleet:
        (truth,) = fleet.truth
        assert (None, None) == (truth.struck, truth.over)
        scrape = fleet.at(AFTER)
        assert (BEGIN + READY, BEGIN + READY + 60.0) == (truth.struck, truth.over)
        hosts = {
            (one.label("hostname"), one.label("gpu"))
            for one in scrape
            if one.name == "training_rank_info" and one.label("rank") == victim(fleet)
        }
        assert {(truth.hostname, str(truth.gpu))} == hosts


def test_victims_follow_from_the_seed() -> None:
    """The same seed gives the same fault again; others hit other ranks."""

    def chosen(seed: int) -> int | None:
        with simulated("hang", ranks=16, seed=seed) as fleet:
            return fleet.truth[0].rank

    assert [chosen(seed) for seed in range(8)] == [chosen(seed) for seed in range(8)]
    assert len({chosen(seed) for seed in range(8)}) > 2


def test_an_unknown_scenario_is_refused_by_name() -> None:
    """A misspelt name must not give a healthy fleet."""
    with pytest.raises(ValueError, match="no scenario stragler; there are nan, "):
        Plan(["stragler"])


def test_scenarios_are_dealt_to_the_runs_and_spread_over_a_history() -> None:
    """The third of three scenarios falls to the first of two runs again, later."""
    plan = spread(["nan", "hang", "spike"], runs=2, seconds=9000.0, onset=None, lasting=None)
    fleet = Simulated_of(plan)
    assert [("nan", 3000.0), ("hang", 3000.0), ("spike", 6000.0)] == [
        (one.scenario, one.planned - BEGIN) for one in fleet.truth
    ]
    assert fleet.truth[0].run == fleet.truth[2].run != fleet.truth[1].run
    fleet.fleet.close()


def Simulated_of(plan: Plan) -> Simulated:  # noqa: N802 - reads like the class
    from trainbeacon.simulate.fleet import Size

    return Simulated(Size(4, 2, 2), plan)


# Learning


def test_nan_begins_on_one_rank() -> None:
    """Its first step is one before that of all others, and its layer is named."""
    with simulated("nan") as fleet:
        scrape = fleet.at(AFTER)
        first = values(scrape, "training_nonfinite_first_step")
        assert {first[victim(fleet)] + 1} == others(fleet, first)
        assert all(math.isnan(loss) for loss in values(scrape, "training_loss", split="train").values())
        assert [victim(fleet)] == list(values(scrape, "training_nonfinite_info", kind="gradient"))


def test_spikes_are_counted_and_the_loss_comes_back() -> None:
    """Between two scrapes a spike is over; the counter has it."""
    with simulated("spike") as fleet:
        before = values(fleet.at(READY - 1), "training_loss", split="train")["0"]
        after = fleet.at(AFTER)
        assert min(values(after, "training_loss_spikes_total").values()) >= 2
        assert values(after, "training_loss", split="train")["0"] < 1.2 * before


def test_divergence_lets_loss_and_gradients_rise() -> None:
    """The loss rises from minute to minute, and the gradients with it."""
    with simulated("divergence", speed=3) as fleet:
        scrapes = [fleet.at(READY + 60.0 * minute) for minute in range(4)]
    losses = [values(scrape, "training_loss", split="train")["0"] for scrape in scrapes]
    norms = [values(scrape, "training_gradient_norm")["0"] for scrape in scrapes]
    assert sorted(losses) == losses
    assert losses[-1] > 1.5 * losses[0]
    assert norms[-1] > 4 * norms[0]


def test_overfitting_parts_validation_from_training() -> None:
    """Validation gets worse from evaluation to evaluation while training gets better."""
    with simulated("overfitting", speed=40, ranks=2) as fleet:
        before, after = fleet.at(READY), fleet.at(READY + 150)
    assert values(after, "training_evaluations_since_best", split="validation")["0"] >= 5
    for split, direction in (("train", -1), ("validation", 1)):
        change = (
            values(after, "training_loss", split=split)["0"]
            - values(before, "training_loss", split=split)["0"]
        )
        assert change * direction > 0.1


def test_plateau_holds_the_loss_where_it_was() -> None:
    """A healthy run would have gone on falling by a good part."""
    with simulated("plateau", speed=10) as fleet, simulated(speed=10) as healthy:
        before = values(fleet.at(READY), "training_loss", split="train")["0"]
        stuck, fine = (
            values(one.at(READY + 300), "training_loss", split="train")["0"] for one in (fleet, healthy)
        )
    assert stuck == pytest.approx(before, rel=0.1)
    assert fine < 0.85 * before


# Standing still and dying


@pytest.mark.parametrize(
    ("name", "phase"),
    [("hang", "forward"), ("stuck-loader", "data_wait"), ("stuck-checkpoint", "checkpoint")],
)
def test_a_hang_has_one_rank_elsewhere(name: str, phase: str) -> None:
    """It has begun one collective less than all others, which wait for it, and nobody makes a step."""
    with simulated(name) as fleet:
        before, after = fleet.at(READY + 1), fleet.at(AFTER)
        assert values(before, "training_steps_total") == values(after, "training_steps_total")
        assert [victim(fleet)] == [r for r, on in values(after, "training_phase", phase=phase).items() if on]
        waiting = values(after, "training_phase", phase="communication")
        assert {1.0} == others(fleet, waiting)
        begun = values(after, "training_collectives_enqueued_total")
        ended = values(after, "training_collectives_completed_total")
        assert {begun[victim(fleet)] + 1} == others(fleet, begun)
        assert 1 == len(set(ended.values()))
        assert {1.0} == set(values(after, "training_hang_evidence_total").values())
        busy = values(after, "training_gpu_utilization_ratio")
        assert max(busy.values()) == 1.0  # who waits in a collective keeps its GPU busy


def test_a_hang_that_ends_goes_on_where_it_was() -> None:
    """The counters go on; nothing begins anew."""
    with simulated("hang", lasting=60.0) as fleet:
        before, after = fleet.at(READY), fleet.at(AFTER)
    assert values(after, "training_start_timestamp_seconds") == values(
        before, "training_start_timestamp_seconds"
    )
    assert values(after, "training_steps_total")["0"] > values(before, "training_steps_total")["0"]


STRAGGLERS = {"straggler-data": "data_wait", "straggler-compute": "forward", "straggler-host": "host"}


@pytest.mark.parametrize(("name", "cause"), STRAGGLERS.items())
def test_a_straggler_shows_in_its_own_time_only(name: str, cause: str) -> None:
    """All ranks step together, so only own time and waiting tell who it is, and the cause says why."""
    with simulated(name) as fleet:
        before, after = fleet.at(READY + 20), fleet.at(READY + 120)
        own = rate(before, after, "training_self_seconds_total", cause=cause)
        slow = own[victim(fleet)]
        assert slow > max(others(fleet, own)) + 0.15 * fleet.run.workload.step_seconds
        waits = rate(before, after, "training_phase_seconds_total", phase="communication")
        assert waits[victim(fleet)] < min(others(fleet, waits))
        assert 1 == len(set(values(after, "training_steps_total").values()))


def test_all_ranks_of_a_long_stage_take_longer() -> None:
    """By alike, and no rank of another stage; each rank says which stage it is of."""
    with simulated("stage-imbalance", ranks=8, stages=4) as fleet:
        before, after = fleet.at(READY + 20), fleet.at(READY + 120)
        own = rate(before, after, "training_self_seconds_total", cause="forward")
        stages = [fleet.run.stage_of(rank.number) for rank in fleet.run.ranks]
        assert [0, 0, 1, 1, 2, 2, 3, 3] == stages
        (*quick, long) = sorted(range(4), key=lambda stage: min(own[str(2 * stage)], own[str(2 * stage + 1)]))
        least = min(own[str(2 * long)], own[str(2 * long + 1)])
        most = max(own[str(rank)] for rank in range(8) if stages[rank] in quick)
        assert least > most + 0.2 * fleet.run.workload.step_seconds
        labels = [one.label("stage") for one in after if one.name == "training_rank_info"]
        assert ["0", "0", "1", "1", "2", "2", "3", "3"] == sorted(labels)


def test_a_crash_says_nothing_and_its_peers_fail() -> None:
    """Only the state tells the first death from the deaths that follow from it; then all is gone."""
    with simulated("crash") as fleet:
        after = fleet.at(READY + 10)
        assert [victim(fleet)] == [
            r for r, on in values(after, "training_state", state="crashed").items() if on
        ]
        assert {1.0} == others(fleet, values(after, "training_state", state="failed"))
        assert victim(fleet) not in values(after, "training_failure_info", kind="peer_lost")
        assert {} == values(fleet.at(READY + 100), "training_state")


def test_a_crash_that_resumes_repeats_steps() -> None:
    """A new attempt starts at the last checkpoint, and what it makes again is lost."""
    with simulated("crash-resume", speed=10, ranks=2, onset=200.0) as fleet:
        before, after = fleet.at(200), fleet.at(330)
        assert {1.0} == set(values(after, "training_attempt").values())
        kept = fleet.run.first_step
        assert 0 < kept < values(before, "training_step")["0"]
        lost = values(before, "training_step")["0"] - kept
        assert lost == pytest.approx(after[series("training_lost_steps_total", run=fleet.run.name)], abs=2)
        assert after[series("training_run_seconds", run=fleet.run.name, kind="idle")] == pytest.approx(
            42, abs=2
        )


def test_out_of_memory_names_its_exception() -> None:
    """The rank that failed first says why; its peers say that they lost it."""
    with simulated("oom") as fleet:
        after = fleet.at(READY + 10)
        assert [victim(fleet)] == list(values(after, "training_failure_info", kind="cuda_oom"))
        assert len(fleet.run.ranks) - 1 == len(values(after, "training_failure_info", kind="peer_lost"))


def test_a_moved_rank_comes_back_on_the_spare_node() -> None:
    """Its host is another one, its number is the same, and its old node goes on showing the others."""
    with simulated("moved", ranks=6) as fleet:
        fleet.at(READY)
        fleet.at(READY + 200)
        places = {rank.number: rank.place.node for rank in fleet.run.ranks}
        assert 2 == places[int(victim(fleet))]
        (node,) = [node for node in fleet.fleet.nodes if node.number == 2]
        assert [int(victim(fleet))] == [rank.number for _, rank in node.living()]


# Time and hardware


def test_input_bound_starves_all_gpus() -> None:
    """Every rank waits for data, no rank more than the others, and the GPUs idle."""
    with simulated("input-bound") as fleet:
        before, after = fleet.at(READY - 5), fleet.at(AFTER)
        waits = rate(before, after, "training_phase_seconds_total", phase="data_wait")
        assert min(waits.values()) > 0.5 * fleet.run.workload.step_seconds
        assert max(waits.values()) < 1.06 * min(waits.values())
        busy = values(after, "training_gpu_utilization_ratio")
        assert max(busy.values()) < 0.7 < min(values(before, "training_gpu_utilization_ratio").values())


def test_slow_checkpoints_stop_the_training_for_longer() -> None:
    """One checkpoint takes twenty times the time of one before."""
    with simulated("slow-checkpoint", speed=20, ranks=2, onset=300.0) as fleet:
        before, after = (fleet.at(at) for at in (299, 900))

        def mean(scrape: Scrape) -> float:
            seconds = values(scrape, "training_checkpoint_seconds_total")["0"]
            return seconds / values(scrape, "training_checkpoints_total")["0"]

        assert mean(after) > 5 * mean(before)


def test_failing_checkpoints_let_the_last_one_grow_old() -> None:
    """They are begun and raise; step and time of the last good one stay."""
    with simulated("failing-checkpoint", speed=20, ranks=2, onset=300.0) as fleet:
        before, after = (fleet.at(at) for at in (299, 500))
    assert values(after, "training_checkpoint_failures_total")["0"] >= 2
    assert values(after, "training_checkpoint_step") == values(before, "training_checkpoint_step")


def test_pauses_are_long_and_healthy() -> None:
    """Compilation in the middle of training, then steps again, by the same process."""
    with simulated("pauses") as fleet:
        compiling, after = fleet.at(AFTER), fleet.at(READY + 240)
    assert {1.0} == set(values(compiling, "training_phase", phase="compile").values())
    assert values(after, "training_steps_total")["0"] > values(compiling, "training_steps_total")["0"]


def gpu_of(fleet: Simulated, scrape: Scrape, name: str, **labels: object) -> float:
    """A number of the GPU of the rank at fault."""
    truth = fleet.truth[0]
    return scrape[series(name, gpu=truth.gpu, node=truth.hostname, **labels)]


def test_an_xid_takes_gpu_and_rank_along() -> None:
    """The GPU does not answer any more, its XID stays told, and its rank fails first."""
    with simulated("xid") as fleet:
        after = fleet.at(READY + 10)
        assert 0.0 == gpu_of(fleet, after, "training_gpu_up")
        assert 1.0 == gpu_of(fleet, after, "training_gpu_xid_errors_total", **{"class": "gpu_lost"})
        assert 79.0 == gpu_of(fleet, after, "training_gpu_xid_last")
        assert [victim(fleet)] == list(values(after, "training_failure_info", kind="other"))


def test_ecc_errors_are_of_one_gpu() -> None:
    """Corrected ones keep coming, one was uncorrected, and a row waits for a reset."""
    with simulated("ecc") as fleet:
        after = fleet.at(AFTER)
        assert gpu_of(fleet, after, "training_gpu_ecc_errors_total", kind="corrected") > 40
        assert 1.0 == gpu_of(fleet, after, "training_gpu_ecc_errors_total", kind="uncorrected")
        assert 1.0 == gpu_of(fleet, after, "training_gpu_remapped_rows", kind="pending")
        counts = [v for s, v in after.items() if s.name == "training_gpu_ecc_errors_total"]
        assert len(counts) - 2 == counts.count(0.0)


def test_throttling_slows_the_rank_of_a_hot_gpu() -> None:
    """Hotter, at a lower clock, with the reason told, and its rank needs longer for the same work."""
    with simulated("throttling") as fleet:
        before, after = fleet.at(READY - 5), fleet.at(READY + 120)
        assert 1.0 == gpu_of(fleet, after, "training_gpu_throttled", reason="hardware_thermal")
        clock = gpu_of(fleet, after, "training_gpu_clock_hertz", clock="sm")
        assert clock == pytest.approx(
            0.6 * gpu_of(fleet, before, "training_gpu_clock_hertz", clock="sm"), rel=0.02
        )
        warmer = gpu_of(fleet, after, "training_gpu_temperature_celsius")
        assert warmer > gpu_of(fleet, before, "training_gpu_temperature_celsius") + 10
        own = rate(before, after, "training_self_seconds_total", cause="forward")
        assert own[victim(fleet)] > 1.3 * max(others(fleet, own))


@pytest.mark.parametrize(
    ("name", "metric", "labels", "least"),
    [
        ("memory-leak", "training_process_resident_memory_bytes", {}, 6e9),
        ("gpu-memory-leak", "training_allocator_bytes", {"kind": "reserved"}, 1.5e9),
    ],
)
def test_a_leak_grows_on_one_rank(name: str, metric: str, labels: dict[str, str], least: float) -> None:
    """One rank's memory grows by the minute, that of the others stays."""
    with simulated(name) as fleet:
        before, after = values(fleet.at(READY), metric, **labels), values(fleet.at(AFTER), metric, **labels)
        growth = {rank: after[rank] - before[rank] for rank in before}
        assert growth[victim(fleet)] > least
        assert max(others(fleet, growth)) < 1e6


def test_a_gpu_memory_leak_ends_out_of_memory() -> None:
    """Once the GPU is full the next allocation fails."""
    with simulated("gpu-memory-leak", speed=20) as fleet:
        fleet.at(READY)
        while fleet.run.stage == "train":
            scrape = fleet.at(fleet.clock.now - BEGIN + 10)
        scrape = fleet.now()
        assert [victim(fleet)] == list(values(scrape, "training_failure_info", kind="cuda_oom"))


def test_exporter_loss_leaves_the_training_alone() -> None:
    """The node is not served and comes back; its ranks went on meanwhile."""
    with simulated("exporter-loss", lasting=60.0) as fleet:
        before = fleet.at(READY - 5)
        fleet.at(READY + 30)
        (down,) = [node.hostname for node in fleet.fleet.nodes if node.is_down]
        assert fleet.truth[0].hostname == down
        after = fleet.at(AFTER)
        assert [] == [node for node in fleet.fleet.nodes if node.is_down]
    grown = rate(before, after, "training_steps_total")
    assert {1.0} == set(grown.values())


SHOWN_HERE: dict[str, Callable[..., None]] = {
    "nan": test_nan_begins_on_one_rank,
    "spike": test_spikes_are_counted_and_the_loss_comes_back,
    "divergence": test_divergence_lets_loss_and_gradients_rise,
    "overfitting": test_overfitting_parts_validation_from_training,
    "plateau": test_plateau_holds_the_loss_where_it_was,
    "hang": test_a_hang_has_one_rank_elsewhere,
    "stuck-loader": test_a_hang_has_one_rank_elsewhere,
    "stuck-checkpoint": test_a_hang_has_one_rank_elsewhere,
    **dict.fromkeys(STRAGGLERS, test_a_straggler_shows_in_its_own_time_only),
    "stage-imbalance": test_all_ranks_of_a_long_stage_take_longer,
    "crash": test_a_crash_says_nothing_and_its_peers_fail,
    "crash-resume": test_a_crash_that_resumes_repeats_steps,
    "oom": test_out_of_memory_names_its_exception,
    "moved": test_a_moved_rank_comes_back_on_the_spare_node,
    "input-bound": test_input_bound_starves_all_gpus,
    "slow-checkpoint": test_slow_checkpoints_stop_the_training_for_longer,
    "failing-checkpoint": test_failing_checkpoints_let_the_last_one_grow_old,
    "pauses": test_pauses_are_long_and_healthy,
    "xid": test_an_xid_takes_gpu_and_rank_along,
    "ecc": test_ecc_errors_are_of_one_gpu,
    "throttling": test_throttling_slows_the_rank_of_a_hot_gpu,
    "memory-leak": test_a_leak_grows_on_one_rank,
    "gpu-memory-leak": test_a_gpu_memory_leak_ends_out_of_memory,
    "exporter-loss": test_exporter_loss_leaves_the_training_alone,
}


def test_every_scenario_has_its_test() -> None:
    """A new scenario is shown by a test of this file before anybody trusts it."""
    assert set(SCENARIOS) == set(SHOWN_HERE)
