"""`trainbeacon stacks`: evidence shown, live ranks asked, and nobody signalled who did not agree to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Node, Rank, wait_for
from trainbeacon import cli
from trainbeacon.blackbox.machine import boot_id, pid_namespace
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.blackbox.writer import Writer
from trainbeacon.recorder.hangs.stack_signal import SIGNAL_SLOT
from trainbeacon.recorder.hangs.store import DIRECTORY_SLOT, Store

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A directory of boxes whose ranks nobody serves."""
    made = Node(tmp_path / "boxes", {"serve": "off"})
    yield made
    for rank in made.ranks:
        rank.close()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with it, and that SIGUSR1 would end."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def stacks(node: Node, *arguments: str) -> int:
    return cli.main(["stacks", "--directory", str(node.folder), *arguments])


def box(node: Node) -> Box:
    folder = os.open(node.folder, os.O_RDONLY)
    try:
        (found,) = BoxDirectory(folder).scan()
        return found
    finally:
        os.close(folder)


def works(rank: Rank) -> bool:
    return rank.process.poll() is None and int(rank.ask("step 1")) > 0


def test_live_rank_answers_with_its_stacks(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice in a row, each time with its own answer, and the rank goes on."""
    rank = node.rank(stacks_signal="SIGUSR1")
    assert works(rank)  # so it is in `obey`, which a rank that is only ready may not have begun
    for _ in range(2):
        assert 0 == stacks(node, "--ask", "--rank", "0")
        said = capsys.readouterr().out
        assert 1 == said.count("stacks of rank 0:")
        assert 1 == said.count("in obey")
    assert works(rank)


def test_rank_without_a_handler_is_not_signalled(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """The signal would end it. The message says what to do instead."""
    rank = node.rank()
    assert 1 == stacks(node, "--ask")
    said = capsys.readouterr().out
    assert "stacks_signal='SIGUSR1'" in said
    assert f"py-spy dump --pid {rank.process.pid}" in said
    assert works(rank)


def test_handler_of_the_script_is_kept(node: Node) -> None:
    """A script that handles the signal itself goes on doing so; the rank says that it cannot be asked."""
    program = (
        "import json, signal, sys, trainbeacon\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('mine', flush=True))\n"
        "trainbeacon.start(**json.loads(sys.argv[1]))\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    settings = f'{{"directory": "{node.folder}", "serve": "off", "stacks_signal": "SIGUSR1"}}'
    done = subprocess.run(
        [sys.executable, "-c", program, settings], capture_output=True, text=True, timeout=120, check=True
    )
    assert "mine\n" == done.stdout
    assert "stacks_signal=SIGUSR1: the script has a handler for it" in done.stderr


def test_dead_rank_is_not_asked(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Its process number may be another process's by now."""
    rank = node.rank(stacks_signal="SIGUSR1")
    rank.kill()
    assert 1 == stacks(node, "--ask")
    assert "it does not run" in capsys.readouterr().out


FOREIGN: dict[str, dict[str, Any]] = {
    "another container": {"pid_namespace": 1},
    "another host": {"boot_id": "elsewhere"},
}


@pytest.mark.parametrize("where", FOREIGN)
def test_number_of_another_namespace_is_not_signalled(
    where: str, node: Node, bystander: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """In a shared directory the same number means another process here."""
    write_box(node, bystander.pid, **FOREIGN[where])
    assert 1 == stacks(node, "--ask")
    assert "in another container or on another host" in capsys.readouterr().out
    assert bystander.poll() is None


@pytest.mark.parametrize("number", [9.0, float("nan"), 10.0])
def test_box_that_lies_signals_nobody(
    number: float, node: Node, bystander: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither another signal than the two, nor with an answer in a file of somebody else, or in none."""
    answer = "/nonexistent" if number == 10.0 else str(node.folder / "answer")
    (node.folder / "answer").touch()
    write_box(node, bystander.pid, answer=answer, number=number)
    assert 1 == stacks(node, "--ask")
    assert "py-spy" in capsys.readouterr().out
    assert bystander.poll() is None


def write_box(node: Node, pid: int, answer: str = "", number: float = 10.0, **fields: Any) -> None:
    identity = {
        "run": "r",
        "rank": 0,
        "start": 1.0,
        "pid": pid,
        "pid_namespace": pid_namespace(),
        "boot_id": boot_id(),
    }
    writer = Writer.create(str(node.folder), {**identity, **fields})
    writer.slots[writer.declare(SIGNAL_SLOT, [answer or str(node.folder / "answer")])] = number


def test_stall_leaves_evidence_that_is_shown(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Once a stall: a file, a count, a line in the log with the path; the command shows stacks and class."""
    rank = node.rank(evidence_seconds=1.0)
    rank.ask("step 3")
    written = wait_for(
        lambda: box(node).number("training_hang_evidence_total"), what=f"evidence: {rank.errors}"
    )
    assert 1.0 == written
    assert 0 == stacks(node)
    said = capsys.readouterr().out
    (path,) = (node.folder / "evidence").glob("*.evidence.json")
    assert f"evidence in {path}" in rank.errors
    assert str(path) in said
    assert "in obey" in said
    assert "rank 0 (pid" in said


def test_probe_can_be_switched_off(node: Node) -> None:
    """Then there is no directory, and no handler either."""
    node.rank(probes_off=["evidence"], stacks_signal="SIGUSR1")
    assert not (node.folder / "evidence").exists()


def test_end_of_the_run_leaves_no_empty_files(node: Node) -> None:
    """What was prepared for a hang that did not come is gone."""
    rank = node.rank(stacks_signal="SIGUSR1")
    folder = node.folder / "evidence"
    assert 2 == len([*folder.iterdir()])
    rank.end()
    assert [] == [*folder.iterdir()]


def test_evidence_outlives_the_boxes(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """By the name of the run it is found when the boxes are gone, and what does not match is put together."""
    for rank, operation in enumerate(("all_reduce", "broadcast", "all_reduce")):
        waits = {
            "group": "default:0-2",
            "profiling_name": f"gloo:{operation}",
            "op_id": 7,
            "input_sizes": [[4]],
        }
        store = Store.beside(str(node.folder), "old", rank)
        store.write(
            {"time": 1.0, "run": "old", "rank": rank, "class": "collectives_mismatched", "open": [waits]}
        )
    assert 0 == stacks(node, "--run", "old")
    said = capsys.readouterr().out
    assert (
        "the collectives of default:0-2 do not match: "
        "ranks 1 in gloo:broadcast [[4]]; ranks 0, 2 in gloo:all_reduce [[4]]"
    ) in said
    assert 1 == stacks(node, "--run", "other")


def test_empty_directory_is_said(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """With the place that was looked at and how to name another."""
    assert 1 == stacks(node)
    assert f"no black box in {node.folder}: name the folder with --directory" in capsys.readouterr().err


def evidence(node: Node, **fields: Any) -> None:
    """Evidence of a rank of run r, with whatever fields."""
    document = {"time": 1.0, "run": "r", "rank": 1, "class": "unknown", "reason": "because", **fields}
    Store.beside(str(node.folder), "r", 1).write(document)


@pytest.mark.parametrize(
    "fields",
    [
        {"open": 5},
        {"open": ["a", None, {"group": [1], "input_sizes": {}}]},
        {"workers": ["a", 3]},
        {"workers": {"pid": 1}},
        {"main_thread": [1]},
        {"stacks": 7},
        {"stacks": [None, ["x"], {"y": 1}]},
        {"reason": "\ud800"},
        {"class": {"a": []}, "phase": [], "phase_seconds": "x", "seconds_without_step": None},
    ],
)
def test_evidence_of_any_form_is_shown(
    fields: dict[str, Any], node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not as it should be is left out; the rest is shown."""
    evidence(node, **fields)
    assert 0 == stacks(node)
    assert "evidence of rank 1" in capsys.readouterr().out


def test_terminal_gets_no_escapes(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither evidence nor the texts of a box can move the cursor, rename the window or hide a line."""
    evil = "\x1b]0;owned\x07\x1b[2J\x1b[8mhidden\r\n\u202eleft"
    evidence(node, reason=evil, stacks=[evil], phase=evil, run=evil)
    writer = Writer.create(str(node.folder), {"run": evil, "rank": 0, "start": 2.0, "pid": 1})
    writer.slots[writer.declare(DIRECTORY_SLOT, [f"/tmp/{evil}"])] = 1.0
    stacks(node)
    stacks(node, "--ask")
    said = capsys.readouterr().out
    assert "hidden" in said
    assert [] == [c for c in said if not c.isprintable() and c != "\n"]


def test_directory_that_a_box_names_is_not_read(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever writes a box cannot have this user read elsewhere; the user who names it can."""
    Store.make(str(tmp_path / "theirs"), "r", 0).write(
        {"time": 1.0, "run": "r", "rank": 0, "reason": "secret"}
    )
    writer = Writer.create(str(node.folder), {"run": "r", "rank": 0, "start": 1.0})
    writer.slots[writer.declare(DIRECTORY_SLOT, [str(tmp_path / "theirs")])] = 1.0
    assert 1 == stacks(node)
    said = capsys.readouterr().out
    assert "secret" not in said
    assert f"--evidence-dir {tmp_path / 'theirs'}" in said
    assert 0 == stacks(node, "--evidence-dir", str(tmp_path / "theirs"))
    assert "secret" in capsys.readouterr().out
