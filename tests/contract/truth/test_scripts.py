"""Training scripts as people write them: each makes six steps of four samples, however it goes about it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainbeacon import Beacon
from trainbeacon.blackbox.reader import Box

torch = pytest.importorskip("torch")

from tests.contract.truth.job import STEPS  # noqa: E402
from tests.contract.truth.scripts import evaluations, interruptions, loaders, optimizers  # noqa: E402
from tests.contract.truth.scripts.parts import CallsItsBase, make_loader, watched  # noqa: E402

SCRIPTS = (*loaders.SCRIPTS, *evaluations.SCRIPTS, *interruptions.SCRIPTS, *optimizers.SCRIPTS)


@pytest.mark.filterwarnings("ignore:.*optree:FutureWarning")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_script(script: Callable[..., None], beacon: Beacon, box: Callable[[], Box], tmp_path: Path) -> None:
    """Steps and samples are those that were trained on, no phase stays open, nothing of ours went wrong."""
    more = [tmp_path / "files"] if script is optimizers.saves_in_a_thread_and_in_a_hook else []
    for folder in more:
        folder.mkdir()
    script(beacon, *more)
    found = box()
    errors = {name: value for name, value in found.values.items() if "errors_total" in name[0] and value}
    assert (float(STEPS), 4.0 * STEPS, "other", {}) == (
        found.number("training_steps_total"),
        found.number("training_samples_total"),
        found.phase,
        errors,
    )


def test_a_base_class_clips_one_step(beacon: Beacon, box: Callable[[], Box]) -> None:
    """Hooks that torch runs twice a step count its clipping once, with the norm before it."""
    job = watched(beacon, lambda parameters: CallsItsBase(parameters, lr=0.1))
    for _ in range(STEPS):
        job.backward()
        job.take_norm()
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), 1e-4)
        job.update()
    assert float(STEPS) == box().number("training_gradient_clipped_total")
    assert pytest.approx(job.norms[-1], rel=1e-5) == box().number("training_gradient_norm")


def test_training_goes_on_while_an_iterator_of_validation_is_kept(
    beacon: Beacon, box: Callable[[], Box]
) -> None:
    """Its phase ends with the next backward pass, so that steps are no evaluation."""
    job, validation = watched(beacon), iter(beacon.batches(make_loader(50)))
    job.iterate()
    with torch.no_grad():
        next(validation)
    assert "evaluate" == box().phase
    job.backward()
    assert "other" == box().phase


class _OwnDeepcopy(torch.nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made


class _OwnReduce(torch.nn.Linear):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (type(self), self.__dict__.copy())


class _OwnState(torch.nn.Linear):
    def __getstate__(self) -> Any:
        return 1, self.__dict__.copy()

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state[1])


def _rebuilt(kind: Any, state: dict[str, Any]) -> Any:
    made = kind.__new__(kind)
    made.__dict__.update(state)
    return made


@pytest.mark.parametrize("kind", [torch.nn.Linear, _OwnDeepcopy, _OwnReduce, _OwnState])
def test_copies_report_nothing(kind: Any, beacon: Beacon, box: Callable[[], Box]) -> None:
    """Whatever way a class copies itself, and though such a copy may share the hooks of the original."""
    model = kind(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beacon.watch(model, optimizer)
    for _ in range(2):
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
    seen = box().number("training_phase_seconds_total", "forward")
    ways = (copy.deepcopy, copy.copy, lambda each: pickle.loads(pickle.dumps(each)))
    for way in ways:
        way(model)(torch.ones(1, 8))
        way(optimizer).step()
    assert 0.0 < (seen or 0.0)
    assert seen == box().number("training_phase_seconds_total", "forward")
    assert 2.0 == box().number("training_steps_total")
