"""Where the time of a run went that was killed and started anew: within one per cent of it, for each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.diagnosis.resume import crash_and_resume

#: Long enough for the moments in which a process is not scheduled to be no per cent of it.
SHORT = {"steps": 110, "stall_at": 31, "checkpoint_every": 14}


@pytest.mark.parametrize(
    ("seed", "elsewhere", "tells"),
    [(11, False, True), (12, True, False)],
    ids=["box there, step told", "box gone, step not told"],
)
def test_accounts_of_a_run_that_was_killed_twice(
    seed: int, elsewhere: bool, tells: bool, tmp_path: Path
) -> None:
    """A real process, killed at random moments: every kind of time and every step made again is right.

    With the box of the dead attempt at hand, without it, and with a script that says nothing of a restart.
    Without the box, what an attempt did since it last wrote its state is unknown, however long that was.
    """
    result = crash_and_resume(seed, tmp_path, kills=2, elsewhere=elsewhere, tells=tells, **SHORT)
    allowed = 0.01 + result.unseen / result.elapsed
    assert {} == {kind: error for kind, error in result.errors().items() if error > allowed}
    said, true = result.lost_steps
    assert true == pytest.approx(said, abs=2 if elsewhere else 0)  # what was made since the last writing
    assert result.elapsed == pytest.approx(result.elapsed_said, rel=0.01)
    assert result.elapsed_said == pytest.approx(sum(said for said, _ in result.run.values()), rel=0.01)
