"""When a rank is stalled."""

from __future__ import annotations

from collections.abc import Iterator

from trainbeacon.recorder.hangs.stall_clock import StallClock


def told(
    clock: StallClock, looks: Iterator[tuple[float, float, str, float]], mean: float = 0.1
) -> list[float]:
    """The times at which a stall is reported, of looks at (time, steps, phase, start of the phase)."""
    return [look[0] for look in looks if clock.poll(*look, mean) is not None]


def test_stall_is_told_once_and_again_after_a_step() -> None:
    """Once a minute without a step is over, not at every look after; a later stall is reported again."""
    clock = StallClock(60, now=0)
    first = told(clock, ((float(now), 5, "backward", 0.0) for now in range(200)))
    second = told(clock, ((float(now), 6, "backward", 200.0) for now in range(200, 400)))
    assert ([61.0], [261.0]) == (first, second)


def test_steps_that_take_long_are_no_stall() -> None:
    """A minute is nothing where a step takes half of one: ten mean steps, then."""
    clock = StallClock(60, now=0)
    assert [301.0] == told(clock, ((float(now), 1, "forward", 0.0) for now in range(400)), mean=30)


def test_slow_phases_have_ten_times_as_long() -> None:
    """A checkpoint of five minutes is none; one of eleven is."""
    clock = StallClock(60, now=0)
    assert [601.0] == told(clock, ((float(now), 5, "checkpoint", 0.0) for now in range(700)))


def test_phase_after_a_slow_one_has_its_own_time() -> None:
    """What the checkpoint took does not count against the step after it."""
    clock = StallClock(60, now=0)
    looks = [(float(now), 5.0, "checkpoint" if now < 300 else "forward", 0.0) for now in range(400)]
    assert [360.0] == told(clock, iter(looks))
