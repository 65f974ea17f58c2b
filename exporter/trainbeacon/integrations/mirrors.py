"""Mirrors: what a script already gives to TensorBoard, MLflow or W&B is recorded too.

Their own files and runs stay as they are: each call is only observed. A name whose meaning is sure goes to
the catalogue's metric; any other is `training_metric{name}`, within the budget of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trainbeacon.integrations.imports import on_import
from trainbeacon.integrations.names import Recorded, meaning
from trainbeacon.recorder.api.start import current_beacon
from trainbeacon.recorder.core.patch import observe

_mirrored: set[str] = set()


def mirror(name: str) -> None:
    """Record from now on what is given to that tracker; before or after it is imported, and once.

    Raises:
        ValueError: there is no mirror of that name.
    """
    if name not in MIRRORS:
        raise ValueError(f"mirror({name!r}) is not known: give one of {', '.join(MIRRORS)}")
    if name in _mirrored:
        return
    _mirrored.add(name)
    for module, install in MIRRORS[name]:
        on_import(module, install)


def _record(values: Iterable[tuple[str, Any]]) -> None:
    """Numbers by the names that a script gives them; what is no number is left to the tracker."""
    beacon = current_beacon()
    if beacon is None:
        return
    found: dict[str, Recorded] = {}
    for name, value in values:
        if hasattr(value, "item") or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[name] = meaning(name, value)
    for split in {each.split for each in found.values()}:
        named = {each.name: each.value for each in found.values() if each.split == split}
        if named:
            beacon.log(split=split, **named)


def _observed(
    owner: Any, name: str, values: Callable[[Sequence[Any], Mapping[str, Any]], Iterable[tuple[str, Any]]]
) -> None:
    def started(args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        beacon = current_beacon()
        if beacon is not None:
            beacon.recorder.guard("value", lambda: _record(values(args, keywords)))

    observe(owner, name, started)


def _argument(args: Sequence[Any], keywords: Mapping[str, Any], at: int, name: str) -> Any:
    return args[at] if len(args) > at else keywords.get(name)


# TensorBoard: torch's writer, and tensorboardX's, which Lightning falls back to.


def _writer(module: Any) -> None:
    def scalar(args: Sequence[Any], keywords: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        yield _argument(args, keywords, 1, "tag"), _argument(args, keywords, 2, "scalar_value")

    def scalars(args: Sequence[Any], keywords: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        main = _argument(args, keywords, 1, "main_tag")
        for name, value in (_argument(args, keywords, 2, "tag_scalar_dict") or {}).items():
            yield f"{main}/{name}", value

    _observed(module.SummaryWriter, "add_scalar", scalar)
    _observed(module.SummaryWriter, "add_scalars", scalars)


# MLflow: the client is the one place that the fluent calls and Lightning pass.


def _client(module: Any) -> None:
    def metric(args: Sequence[Any], keywords: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        yield _argument(args, keywords, 2, "key"), _argument(args, keywords, 3, "value")

    def batch(args: Sequence[Any], keywords: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        for each in _argument(args, keywords, 2, "metrics") or ():
            yield each.key, each.value

    _observed(module.MlflowClient, "log_metric", metric)
    _observed(module.MlflowClient, "log_batch", batch)


# W&B: the method of the run; the function `wandb.log` is bound to it only by `wandb.init`.


def _run(module: Any) -> None:
    def logged(args: Sequence[Any], keywords: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        return _flat(_argument(args, keywords, 1, "data") or {})

    _observed(module.Run, "log", logged)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


MIRRORS: dict[str, tuple[tuple[str, Callable[[Any], None]], ...]] = {
    "tensorboard": (
        ("torch.utils.tensorboard.writer", _writer),
        ("tensorboardX.writer", _writer),
    ),
    "mlflow": (("mlflow.tracking.client", _client),),
    "wandb": (("wandb.sdk.wandb_run", _run),),
}
