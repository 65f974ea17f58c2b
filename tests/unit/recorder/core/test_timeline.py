"""Phases and steps against a clock of the test's own, read back from the box as the exporter does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.blackbox.boxes import identity, look
from trainbeacon import catalogue
from trainbeacon.blackbox import format as layout
from trainbeacon.blackbox.reader import Box
from trainbeacon.blackbox.writer import Writer
from trainbeacon.exporter.collectors.ranks import _values
from trainbeacon.recorder.core import timeline
from trainbeacon.recorder.core.timeline import CHECKPOINT, EVALUATE, PHASE, Declared, Timeline

FORWARD, BACKWARD, DATA_WAIT = PHASE["forward"], PHASE["backward"], PHASE["data_wait"]
WALL_OFFSET = 1_000_000.0


class Clock:
    """Stands in for the module `time`; seconds in eighths, so that sums are exact."""

    def __init__(self) -> None:
        self.now = 512.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + WALL_OFFSET


class Rank:
    """A timeline over a box of its own, with the background loop's part done by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        real, timeline.time = timeline.time, self.clock  # type: ignore[attr-defined, assignment]
        self._restore = real
        self.began = self.clock.now
        self.writer = Writer.private(identity())
        names = [layout.PHASE_INDEX, layout.PHASE_START, layout.HEARTBEAT]
        index = {(name, ()): self.writer.declare(name) for name in names}
        for name in layout.STEP_METRICS:
            metric = catalogue.BY_NAME.get(name)
            for labels in layout.slots_of(metric) if metric else ():
                index[name, labels] = self.writer.declare(name, labels)
        self._beat_at = index[layout.HEARTBEAT, ()]
        self.timeline = Timeline(self.writer, index)
        self.declared: list[Declared | None] = []

    def close(self) -> None:
        timeline.time = self._restore  # type: ignore[attr-defined]

    def push(self, phase: int) -> None:
        """The script enters a phase."""
        self.declared.append(self.timeline.push_phase(phase))

    def pop(self) -> None:
        """The script leaves the phase that it entered last."""
        self.timeline.pop_phase(self.declared.pop() if self.declared else None)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    def beat(self) -> None:
        """What the background loop does once a second."""
        self.timeline.heartbeat = self.clock.now
        self.writer.slots[self._beat_at] = self.clock.now

    def step(self, seconds: float) -> None:
        self.wait(seconds)
        self.timeline.end_step()

    def box(self) -> Box:
        return look(self.writer, ring=True)

    def phases(self) -> dict[str, float]:
        """The phases that took time, as far as they are closed."""
        totals = {name: self.box().number("training_phase_seconds_total", name) for name in catalogue.PHASES}
        return {name: seconds for name, seconds in totals.items() if seconds}

    def served(self) -> dict[str, float]:
        """The totals as an exporter serves them: the open phase up to the last heartbeat."""
        values = _values(self.box())
        return {name: values["training_phase_seconds_total", (name,)] for name in catalogue.PHASES}

    def duration(self) -> float:
        """The duration of the last step."""
        return self.box().ring[-1].duration


@pytest.fixture
def rank() -> Iterator[Rank]:
    rank = Rank()
    yield rank
    rank.close()


def test_a_rank_begins_in_init(rank: Rank) -> None:
    """Before anything is seen the phase is init; phases, steps and durations are 0, not unset."""
    box = rank.box()
    assert box.phase == "init"
    assert box.number("training_steps_total") == 0.0
    assert set(rank.served().values()) == {0.0}
    assert box.number("training_phase_start_timestamp_seconds") == rank.began + WALL_OFFSET
    assert box.number("training_samples_total") is None


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["see", "enter", "leave", "end_step", "beat"]),
        st.integers(0, len(catalogue.PHASES) - 1),
        st.integers(0, 80).map(lambda eighths: eighths / 8),
    ),
    max_size=40,
)


def perform(rank: Rank, operation: str, phase: int) -> None:
    if operation == "see":
        rank.timeline.observe(phase)
    elif operation == "enter":
        rank.push(phase)
    elif operation == "leave" and rank.timeline.declared is not None:
        rank.pop()
    elif operation == "end_step":
        rank.timeline.end_step()
    elif operation == "beat":
        rank.beat()


@given(OPERATIONS)
def test_the_phases_add_up_to_the_life_of_the_process(operations: list[tuple[str, int, float]]) -> None:
    """Whatever phases begin, end and nest: their totals with the open one are the elapsed time exactly."""
    rank = Rank()
    try:
        for operation, phase, seconds in operations:
            rank.wait(seconds)
            perform(rank, operation, phase)
        rank.wait(0.25)
        rank.beat()
        assert sum(rank.served().values()) == rank.clock.now - rank.began
        rank.timeline.close()
        assert sum(rank.phases().values()) == rank.clock.now - rank.began
    finally:
        rank.close()


@given(OPERATIONS, st.lists(st.booleans(), min_size=40, max_size=40))
def test_no_served_total_ever_falls(operations: list[tuple[str, int, float]], late: list[bool]) -> None:
    """Between any heartbeats, switches and reads no phase's total goes down, also where the training
    thread read the clock before the background loop did and stored its stamp after it."""
    rank = Rank()
    try:
        before = rank.served()
        for (operation, phase, seconds), may_be_late in zip(operations, late, strict=False):
            rank.wait(seconds)
            is_late = may_be_late and operation != "beat"
            if is_late:
                rank.wait(0.5)
                rank.beat()
                between = rank.served()
                assert all(between[name] >= before[name] for name in between)
                before = between
                rank.wait(-0.5)
            perform(rank, operation, phase)
            rank.wait(0.5 if is_late else 0.0)
            now = rank.served()
            assert all(now[name] >= before[name] for name in now)
            before = now
    finally:
        rank.close()


def test_the_first_step_is_warm_up(rank: Rank) -> None:
    """What hooks see counts as warm-up until the first step is done, but waiting for data is that."""
    rank.wait(1.0)
    for phase, seconds in ((DATA_WAIT, 2.0), (FORWARD, 4.0), (BACKWARD, 8.0)):
        rank.timeline.observe(phase)
        rank.wait(seconds)
    assert rank.box().phase == "warmup"
    rank.timeline.end_step()
    assert rank.phases() == {"init": 1.0, "data_wait": 2.0, "warmup": 12.0}
    rank.timeline.observe(FORWARD)
    rank.wait(16.0)
    rank.timeline.observe(BACKWARD)
    assert rank.phases()["forward"] == 16.0


def test_phases_nest(rank: Rank) -> None:
    """An inner phase stops the outer one's clock; leaving it goes on with the outer one."""
    rank.push(FORWARD)
    rank.wait(1.0)
    rank.push(BACKWARD)
    rank.wait(2.0)
    rank.pop()
    assert rank.box().phase == "forward"
    rank.wait(4.0)
    rank.pop()
    assert rank.phases() == {"forward": 5.0, "backward": 2.0}


def test_hooks_are_not_heard_inside_a_declared_phase(rank: Rank) -> None:
    """A forward pass inside an evaluation is evaluation."""
    rank.step(1.0)
    rank.push(EVALUATE)
    for phase in (FORWARD, BACKWARD, DATA_WAIT):
        rank.timeline.observe(phase)
        rank.wait(1.0)
    rank.pop()
    assert rank.phases() == {"init": 1.0, "evaluate": 3.0}
    assert rank.timeline.declared is None


def test_leaving_more_than_was_entered_does_no_harm(rank: Rank) -> None:
    """A stray leave changes no phase, and time is still counted."""
    rank.pop()
    rank.wait(2.0)
    rank.timeline.close()
    assert rank.phases() == {"init": 2.0}


@pytest.mark.parametrize("phase", [EVALUATE, CHECKPOINT])
def test_a_step_does_not_last_longer_for_an_evaluation(rank: Rank, phase: int) -> None:
    """The duration of a step leaves out the evaluation or checkpoint that came between."""
    rank.step(1.0)
    rank.wait(0.5)
    rank.push(phase)
    rank.wait(100.0)
    rank.pop()
    rank.step(0.25)
    assert rank.duration() == 0.75
    rank.step(2.0)
    assert rank.duration() == 2.0


def test_phases_inside_an_evaluation_are_left_out_of_the_step_too(rank: Rank) -> None:
    """An evaluation is left out whole, whatever phases and checkpoints the script declares in it."""
    rank.step(1.0)
    rank.push(EVALUATE)
    rank.wait(10.0)
    rank.push(FORWARD)
    rank.wait(20.0)
    rank.pop()
    rank.wait(30.0)
    rank.push(CHECKPOINT)
    rank.wait(40.0)
    rank.pop()
    rank.wait(50.0)
    rank.pop()
    rank.step(0.5)
    assert rank.duration() == 0.5


def test_a_step_that_ends_inside_an_evaluation_has_a_duration_of_its_own(rank: Rank) -> None:
    """What was before a step's end is no part of the pause in the next one: no duration is negative."""
    rank.step(1.0)
    rank.push(EVALUATE)
    rank.wait(10.0)
    rank.timeline.end_step()
    rank.wait(4.0)
    rank.pop()
    rank.step(0.5)
    assert rank.duration() == 0.5


def test_step_durations_fill_the_histogram(rank: Rank) -> None:
    """Each duration is in the bucket that bounds it from above, the bound included; the sum is theirs."""
    durations = (0.25, 0.5, 0.5, 2.0, 1000.0)
    rank.timeline.observe(FORWARD)
    for seconds in durations:
        rank.step(seconds)
    box = rank.box()
    bounds = (*catalogue.STEP_BUCKETS, float("inf"))
    counts = {
        bound: box.number("training_step_duration_seconds", str(bucket))
        for bucket, bound in enumerate(bounds)
    }
    expected = dict.fromkeys(bounds, 0.0) | {0.25: 1.0, 0.5: 2.0, 2.5: 1.0, float("inf"): 1.0}
    assert counts == expected
    assert box.number("training_step_duration_seconds", "sum") == sum(durations)
    assert box.number("training_steps_total") == len(durations)


def test_samples_and_tokens_count_with_their_step(rank: Rank) -> None:
    """Samples of a step under way are not counted before it ends, and then once."""
    rank.timeline.pending_samples, rank.timeline.pending_tokens = 8, 1024
    assert rank.box().number("training_samples_total") is None
    rank.step(1.0)
    rank.timeline.pending_samples = 4
    rank.step(1.0)
    rank.step(1.0)
    box = rank.box()
    assert (box.number("training_samples_total"), box.number("training_tokens_total")) == (12.0, 1024.0)


def test_a_step_is_told_with_its_number_and_time(rank: Rank) -> None:
    """The number of the last step, its Unix time and the count of steps agree."""
    rank.timeline.resume_at(100)
    rank.step(2.0)
    rank.wait(5.0)
    box = rank.box()
    assert (box.number("training_step"), box.number("training_steps_total")) == (101.0, 1.0)
    assert box.number("training_last_step_timestamp_seconds") == rank.began + 2.0 + WALL_OFFSET


def test_a_loss_goes_to_its_step_whether_logged_before_or_after_its_end(rank: Rank) -> None:
    """Scripts log before or after the step's end: the ring has each loss with the right step."""
    for number in range(1, 4):
        rank.timeline.take_loss(float(number))
        rank.step(1.0)
    assert [entry.loss for entry in rank.box().ring] == [1.0, 2.0, 3.0]


def test_a_loss_logged_after_the_step_amends_it(rank: Rank) -> None:
    """A loop whose optimizer steps before it logs has each loss with the step just ended."""
    for number in range(1, 4):
        rank.step(1.0)
        rank.timeline.take_loss(float(number))
    assert [(entry.step, entry.loss) for entry in rank.box().ring] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_step_without_a_loss_has_none(rank: Rank) -> None:
    """A loss is of one step only; steps that logged none have none, and the same of the gradient norm."""
    rank.timeline.take_loss(1.0)
    rank.timeline.pending_norm = 9.0
    rank.step(1.0)
    rank.step(1.0)
    assert [(entry.loss, entry.gradient_norm) for entry in rank.box().ring] == [(1.0, 9.0), (None, None)]


def test_the_first_step_does_not_count_the_start(rank: Rank) -> None:
    """Minutes of loading before the first batch are no step time, also not of the first step."""
    rank.wait(120.0)
    rank.timeline.observe(DATA_WAIT)
    rank.step(2.0)
    assert rank.duration() == 2.0


# A rank's own time

COMMUNICATION, OPTIMIZER, OTHER = PHASE["communication"], PHASE["optimizer"], PHASE["other"]


def own_seconds(rank: Rank) -> dict[str, float | None]:
    box = rank.box()
    return {cause: box.number("training_self_seconds_total", cause) for cause in catalogue.SELF_CAUSES}


def warm_up(rank: Rank) -> None:
    rank.timeline.observe(FORWARD)
    rank.wait(1.0)
    rank.timeline.end_step()


def a_step(rank: Rank, *, hides: bool, waits: float = 0.0) -> None:
    timeline = rank.timeline
    for phase, seconds in ((DATA_WAIT, 1.0), (OTHER, 0.25), (FORWARD, 2.0), (OTHER, 0.0)):
        timeline.observe(phase)
        rank.wait(seconds)
    assert timeline.begin_backward()
    rank.wait(4.0)
    if waits:
        assert timeline.begin_wait()
        rank.wait(waits)
        timeline.end_wait(paired=False)
    timeline.end_backward(hides=hides)
    rank.wait(0.5)
    timeline.observe(OPTIMIZER)
    rank.wait(0.125)
    timeline.end_step()


def test_waiting_that_is_seen_is_no_time_of_the_ranks_own(rank: Rank) -> None:
    """As with FSDP2: all but the waiting counts, under its cause, and the waiting is `communication`."""
    warm_up(rank)
    a_step(rank, hides=False, waits=8.0)
    expected = {"data_wait": 1.0, "forward": 2.0, "backward": 4.0, "optimizer": 0.125, "host": 0.75}
    assert expected == own_seconds(rank)
    assert 8.0 == rank.box().number("training_phase_seconds_total", "communication")


def test_a_backward_pass_that_hides_collectives_is_left_out(rank: Rank) -> None:
    """As with DDP, whose waiting nobody sees: of two micro-batches, the first's backward pass counts."""
    warm_up(rank)
    assert rank.timeline.begin_backward()
    rank.wait(4.0)
    rank.timeline.end_backward(hides=False)
    a_step(rank, hides=True)
    expected = {"data_wait": 1.0, "forward": 2.0, "backward": 4.0, "optimizer": 0.125, "host": 0.75}
    assert expected == own_seconds(rank)


def test_a_backward_pass_is_the_ranks_own_until_its_gradients_are_there(rank: Rank) -> None:
    """As with DDP, which waits for other ranks last: what goes before counts, the waiting does not."""
    warm_up(rank)
    timeline = rank.timeline
    timeline.observe(FORWARD)
    assert timeline.begin_backward()
    rank.wait(4.0)
    timeline.gradients_computed()
    rank.wait(8.0)
    timeline.end_backward(hides=True)
    timeline.end_step()
    assert 4.0 == own_seconds(rank)["backward"]
    a_step(rank, hides=True)  # a pass of which that is not known adds nothing
    assert 4.0 == own_seconds(rank)["backward"]


def test_a_rank_whose_stage_is_known_has_a_time_of_its_own_in_a_pipeline(rank: Rank) -> None:
    """What it waits for messages is no part of it."""
    rank.timeline.has_stage = True
    warm_up(rank)
    rank.timeline.observe(FORWARD)
    assert rank.timeline.begin_wait()
    rank.wait(16.0)
    rank.timeline.end_wait(paired=True)
    rank.wait(2.0)
    rank.timeline.end_step()
    expected = {"data_wait": 0.0, "forward": 2.0, "backward": 0.0, "optimizer": 0.0, "host": 0.0}
    assert expected == own_seconds(rank)


def test_without_collectives_or_in_a_pipeline_of_unknown_stages_nothing_is_claimed(rank: Rank) -> None:
    """No time of its own is served of a rank that waits for nobody, nor of one that exchanged messages."""
    warm_up(rank)
    a_step(rank, hides=False)
    assert {None} == set(own_seconds(rank).values())
    a_step(rank, hides=True)
    assert None not in own_seconds(rank).values()
    assert rank.timeline.begin_wait()
    rank.timeline.end_wait(paired=True)
    a_step(rank, hides=True, waits=1.0)
    assert {None} == set(own_seconds(rank).values())


def test_waiting_in_the_first_step_and_in_pauses_stays_what_it_is(rank: Rank) -> None:
    """Warm-up, evaluation and checkpoint keep their names while a collective in them waits."""
    rank.timeline.observe(FORWARD)
    assert not rank.timeline.begin_wait()
    rank.timeline.end_step()
    for phase in (EVALUATE, CHECKPOINT):
        rank.push(phase)
        assert not rank.timeline.begin_wait()
        rank.pop()


def test_a_backward_pass_inside_another_does_not_end_it(rank: Rank) -> None:
    """As reentrant activation checkpoints do: the phase is over with the outer one."""
    warm_up(rank)
    assert rank.timeline.begin_backward()
    assert not rank.timeline.begin_backward()
    rank.wait(1.0)
    rank.timeline.end_backward(hides=True)
    assert 1.0 == rank.box().number("training_phase_seconds_total", "backward")
