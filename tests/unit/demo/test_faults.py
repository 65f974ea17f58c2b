"""Faults strike the rank and the step that they are meant for."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

from trainbeacon.cli import demo as command
from trainbeacon.demo.faults import KINDS, Fault


def passes(fault: Fault, rank: int, count: int) -> list[bool]:
    """Whether the output of each of `count` training passes is finite."""
    model = nn.Linear(2, 2)
    fault.arm(model, rank)
    return [bool(torch.isfinite(model(torch.ones(1, 2))).all()) for _ in range(count)]


def test_nan_comes_once_on_its_rank_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the third pass of rank 1 gives NaN, and it is announced at that moment."""
    assert passes(Fault("nan", rank=1, step=3), 1, 5) == [True, True, False, True, True]
    assert capsys.readouterr().out.startswith("FAULT nan on rank 1")


def test_other_ranks_are_spared() -> None:
    """A fault meant for rank 1 does nothing on rank 0."""
    assert passes(Fault("nan", rank=1, step=1), 0, 3) == [True, True, True]


def test_evaluation_is_spared() -> None:
    """Passes in evaluation neither count as steps nor are struck."""
    model = nn.Linear(2, 2).eval()
    Fault("nan", rank=0, step=1).arm(model, 0)
    assert torch.isfinite(model(torch.ones(1, 2))).all()


def test_a_straggler_stays_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its step on every pass waits."""
    waits: list[float] = []
    monkeypatch.setattr("trainbeacon.demo.faults.time.sleep", waits.append)
    passes(Fault("straggler", rank=0, step=3, delay=0.25), 0, 5)
    assert waits == [0.25, 0.25, 0.25]


@pytest.mark.parametrize(("kind", "number"), [("hang", signal.SIGSTOP), ("crash", signal.SIGKILL)])
def test_hang_and_crash_signal_the_process_itself(
    kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hang is a stop and a crash a kill, once, without reporting a state."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("trainbeacon.demo.faults.os.kill", lambda *arguments: sent.append(arguments))
    passes(Fault(kind, rank=0, step=2), 0, 4)
    assert sent == [(os.getpid(), number)]


def test_the_command_offers_every_fault() -> None:
    """What `--fault` takes is what the job can do."""
    assert command.FAULTS == tuple(KINDS)
