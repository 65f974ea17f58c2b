"""What `torch.compile` takes is the phase `compile`, wherever in a step it happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import trainbeacon
from trainbeacon.recorder.core.timeline import PHASE
from trainbeacon.recorder.hooks.compiling import CompileWatch


class Handler:
    """What torch's own callback handler is to us."""

    def __init__(self) -> None:
        self.start_callbacks: list[object] = []
        self.end_callbacks: list[object] = []

    def compile(self) -> None:
        for callback in (*self.start_callbacks, *self.end_callbacks):
            callback(None)  # type: ignore[operator]


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Handler:
    module = ModuleType("torch._dynamo.callback")
    module.callback_handler = Handler()  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "torch._dynamo.callback", module)
    return module.callback_handler  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def phases() -> list[str]:
    return []


@pytest.fixture
def watch(phases: list[str]) -> CompileWatch:
    names = {number: name for name, number in PHASE.items()}
    thread = threading.get_ident()

    def push(phase: int) -> str | None:
        if threading.get_ident() != thread:
            return None
        phases.append(names[phase])
        return names[phase]

    timeline = SimpleNamespace(push_phase=push, pop_phase=lambda _: phases.append("back"), thread=thread)
    return CompileWatch(timeline)  # type: ignore[arg-type]


def test_a_compilation_is_a_phase_each_time(handler: Handler, watch: CompileWatch, phases: list[str]) -> None:
    """Each compilation is entered and left once, however often the background loop has looked."""
    watch.poll()
    watch.poll()
    handler.compile()
    handler.compile()
    assert ["compile", "back"] * 2 == phases


def test_a_reset_of_the_compiler_is_survived(
    handler: Handler, watch: CompileWatch, phases: list[str]
) -> None:
    """torch._dynamo.reset() drops all callbacks; the next look brings ours back."""
    watch.poll()
    handler.start_callbacks.clear()
    handler.end_callbacks.clear()
    watch.poll()
    handler.compile()
    assert ["compile", "back"] == phases


def test_what_another_thread_compiles_is_no_phase(
    handler: Handler, watch: CompileWatch, phases: list[str]
) -> None:
    """The phases are the training thread's own."""
    watch.poll()
    thread = threading.Thread(target=handler.compile)
    thread.start()
    thread.join()
    assert [] == phases


def test_a_torch_without_these_callbacks_is_done_without(
    handler: Handler, watch: CompileWatch, phases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are private: where they have changed, nothing is registered and nothing raised."""
    monkeypatch.delattr(handler, "start_callbacks")
    watch.poll()
    assert [] == handler.end_callbacks


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[trainbeacon.Beacon]:
    with trainbeacon.start(run="compiled", directory=str(tmp_path), serve="off") as beacon:
        yield beacon


def test_a_real_compilation_in_the_middle_of_a_step_is_seen(beacon: trainbeacon.Beacon) -> None:
    """With torch's own compiler: its time is in `compile`, and the step goes on in the phase before."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch._dynamo").reset()
    with beacon.step():  # the first one is warm-up
        pass
    CompileWatch(beacon.timeline).poll()
    compiled = torch.compile(lambda tensor: tensor * 2 + 1, backend="eager")
    with beacon.step(), beacon.phase("forward"):
        compiled(torch.ones(3))
        assert PHASE["forward"] == beacon.timeline.declared
    at = beacon.recorder.at("training_phase_seconds_total", "compile")
    assert 0 < beacon.recorder.writer.step[at]
