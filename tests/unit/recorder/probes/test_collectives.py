"""Counts of collectives by process group: what they mean on real gloo, and what groups are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainbeacon.recorder.probes import collectives
from trainbeacon.recorder.probes.collectives import (
    COMPLETED,
    ENQUEUED,
    CollectivesProbe,
    compact,
    group_label,
)
from trainbeacon.testing import FakeClock

PROGRAM = Path(__file__).resolve().parents[3] / "diagnosis/programs/collectives.py"
DEFAULT, PAIR, TWIN = "default:0-2", "dp:0,2", "fsdp:0-2#2"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, list[float]]]]:
    """What each of three real ranks saw after each sort of collective."""
    environment = {**os.environ, "SCRATCH": str(tmp_path_factory.mktemp("collectives"))}
    done = subprocess.run(
        [sys.executable, PROGRAM], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    return json.loads(done.stdout)


def test_collectives_are_counted_by_group(seen: Any) -> None:
    """A group counts its own collectives from its first one, under one name on all its ranks."""
    for own, rank in enumerate(seen):
        assert {} == rank["before"]
        assert {DEFAULT: [0, 0]} == rank["none yet"]
        assert [2, 2] == rank["two"][DEFAULT]
        assert [2, 2] == rank["groups"][TWIN]
        assert (own != 1) == (PAIR in rank["groups"])
    assert [2, 2] == seen[0]["groups"][PAIR] == seen[2]["groups"][PAIR]


def test_group_of_one_rank_is_left_out(seen: Any) -> None:
    """Nobody waits for anybody there."""
    assert {DEFAULT, "fsdp:0-2", TWIN} == set(seen[1]["groups"])


def test_rank_that_waits_has_begun_one_more_than_has_ended(seen: Any) -> None:
    """An asynchronous collective counts as begun at once, and as ended only when the others have joined."""
    assert [5, 4] == seen[0]["others are missing"][DEFAULT] == seen[0]["others are still missing"][DEFAULT]
    assert [5, 5] == seen[0]["groups"][DEFAULT]


def test_collectives_that_end_out_of_order_are_found_to_have_ended(seen: Any) -> None:
    """Gloo then tells of the wrong one for good; after ten seconds the list is asked."""
    for rank in seen:
        assert [4, 4] == rank["out of order, settled"][DEFAULT]


def test_gloo_counts_sends_and_receives_too(seen: Any) -> None:
    """So the ranks of a group may differ by what they sent; hence the rules compare a rank with itself."""
    assert [[7, 7], [7, 7], [6, 6]] == [rank["after a send"][DEFAULT] for rank in seen]


def test_destroyed_group_is_no_more_and_counts_from_zero_when_made_again(seen: Any) -> None:
    """Its series go away; those of the new group under the same name begin anew."""
    for own in (0, 2):
        assert PAIR not in seen[own]["one is gone"]
        assert [1, 1] == seen[own]["one is back"][PAIR]
    for rank in seen:
        assert {} == rank["destroyed"]
        assert {DEFAULT: [1, 1]} == rank["made again"]


@pytest.mark.parametrize(
    ("description", "ranks", "label"),
    [
        ("default_pg", range(8), "default:0-7"),
        ("undefined", (0, 2, 4, 6), "group:0,2,4,6"),
        ("mesh_dp", (0, 1, 2, 5), "mesh_dp:0-2,5"),
        ("tp", range(0, 4096, 8), "tp:0-4088/8"),
        ("a description that goes on and on", (0, 1), "a description that goes :0-1"),
        ("", (3, 4), "group:3-4"),
    ],
)
def test_label_is_short_and_readable(description: str, ranks: Any, label: str) -> None:
    """A name, and the ranks as one would write them."""
    assert label == group_label(description, tuple(ranks))


def test_irregular_group_of_many_ranks_has_a_bounded_label_of_its_own() -> None:
    """Ends, number and a checksum tell it from another one."""
    one = tuple(sorted({rank * rank % 4096 for rank in range(1000)}))
    other = (*one[:-2], one[-2] + 1, one[-1])
    assert compact(one) != compact(other)
    assert len(compact(one)) <= 40
    assert compact(one).startswith(f"0..{one[-1]}x{len(one)}~")


# Stand-ins for torch: what real gloo on one machine cannot show.


class World:
    """A register of groups, as torch keeps it, with the dumps of both backends."""

    def __init__(self, groups: int) -> None:
        self.default_pg = SimpleNamespace(rank=lambda: 0)
        made = [SimpleNamespace(group_desc=f"g{number}") for number in range(groups)]
        self.pg_names = {_Hashed(group): str(number) for number, group in enumerate(made)}
        self.pg_group_ranks = {group: {0: 0, 1: 1} for group in self.pg_names}

    def dump(self, **options: bool) -> bytes:
        status = {"last_enqueued_collective": "7", "last_completed_collective": "6"}
        entries = [
            {"pg_id": number, "process_group": [str(number), ""], "record_id": number, "retired": False}
            for number in range(len(self.pg_names))
        ]
        found: dict[str, Any] = {"pg_status": {str(entry["pg_id"]): status for entry in entries}}
        return json.dumps({**found, "entries": entries} if options["includeCollectives"] else found).encode()


class _Hashed:
    def __init__(self, group: Any) -> None:
        self.group_desc = group.group_desc


def look(monkeypatch: pytest.MonkeyPatch, world: World, **dumps: Any) -> tuple[dict[Any, Any], list[int]]:
    recorded: dict[Any, Any] = {}
    dropped: list[int] = []
    monkeypatch.setattr(collectives, "_world", lambda: world)
    monkeypatch.setitem(sys.modules, "torch._C._distributed_c10d", SimpleNamespace(**dumps))
    probe = CollectivesProbe(
        lambda metric, group, value: recorded.update({(metric, group): value}), dropped.append, FakeClock()
    )
    probe.poll()
    probe.poll()
    return recorded, dropped


def test_group_with_two_backends_counts_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of `cpu:gloo,cuda:nccl` is one group; each backend has a recorder of its own."""
    world = World(1)
    dumps = {"_dump_fr_trace_json": world.dump, "_dump_nccl_trace_json": world.dump}
    recorded, _ = look(monkeypatch, world, **dumps)
    assert {(ENQUEUED, "g0:0-1"): 14, (COMPLETED, "g0:0-1"): 12} == recorded


def test_torch_without_the_calls_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded, and nothing raises."""
    assert ({}, []) == look(monkeypatch, World(1))


def test_one_source_of_another_form_does_not_cost_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions are private, and may change; what still can be read is served."""
    world = World(1)
    changed = {"_dump_nccl_trace_json": lambda: b"", "_dump_fr_trace_json": world.dump}
    recorded, _ = look(monkeypatch, world, **changed)
    assert {(ENQUEUED, "g0:0-1"): 7, (COMPLETED, "g0:0-1"): 6} == recorded


def test_groups_beyond_sixteen_are_counted_as_dropped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sixteen are served."""
    world = World(20)
    recorded, dropped = look(monkeypatch, world, _dump_nccl_trace_json=world.dump)
    assert {f"g{number}:0-1" for number in range(16)} == {group for _, group in recorded}
    assert [4] == dropped


def test_rank_that_seems_to_wait_has_its_list_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again while it stands, however long; the list costs a tenth of a second."""
    world = World(1)
    whole: list[bool] = []

    def dump(**options: bool) -> bytes:
        whole.append(options["includeCollectives"])
        return world.dump(**options)

    monkeypatch.setattr(collectives, "_world", lambda: world)
    monkeypatch.setitem(sys.modules, "torch._C._distributed_c10d", SimpleNamespace(_dump_fr_trace_json=dump))
    clock = FakeClock()
    probe = CollectivesProbe(lambda *_: None, lambda _: None, clock)
    read = []
    for second in range(120):
        before = sum(whole)
        probe.poll()
        if sum(whole) > before:
            read.append(second)
        clock.advance(1)
    assert [0, 10] == read  # for the name of the group, and to settle it
