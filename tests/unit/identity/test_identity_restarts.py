"""What is served of a run whose launcher starts its ranks again, perhaps with another number of them."""

from __future__ import annotations

from pathlib import Path

from tests.serving import node, scrape, wait_for
from trainbeacon.testing import series


def test_elastic_restart_with_fewer_ranks(tmp_path: Path) -> None:
    """Two ranks die and one comes back as the whole world: start, attempt and world size are the new ones.

    The rank that is no more is served as crashed with the size that it knew, so that rules can go by the
    running ones. No two jobs are seen in it.
    """
    with node(tmp_path / "boxes", serve="off") as made:
        made.agent()
        ranks = [made.rank(number, 2) for number in range(2)]
        before = made.scrape()
        for rank in ranks:
            rank.kill()
        made.environment = {"TORCHELASTIC_RESTART_COUNT": "1"}
        made.rank(0, 1)
        wait_for(lambda: made.state(1) == "crashed", what="end of rank 1")
        after = scrape(made.url())

    def of(rank: int, name: str) -> tuple[float, float | None]:
        key = series(name, run="r", rank=rank)
        return before[key], after.get(key)

    assert (2.0, 1.0) == of(0, "training_world_size")
    assert (0.0, 1.0) == of(0, "training_attempt")
    started, again = of(0, "training_start_timestamp_seconds")
    assert again is not None
    assert again > started
    assert (2.0, 2.0) == of(1, "training_world_size")
    assert 1.0 == after[series("training_state", run="r", rank=0, state="running")]
    assert 0.0 == after[series("trainbeacon_run_name_collisions", run="r")]
