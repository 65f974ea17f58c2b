"""What a job is at, read from its /metrics as anybody can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from trainbeacon.stack import web


@dataclass(frozen=True)
class Progress:
    """The state of one run at one scrape; None where nothing is served yet."""

    step: int | None = None
    """Last completed step of the rank that is furthest behind among those that are read."""
    planned: int | None = None
    """Steps that the run means to make."""
    loss: float | None = None
    """Training loss, mean over the ranks."""
    validation_loss: float | None = None
    accuracy: float | None = None
    """Training accuracy, 0 to 1, mean over the ranks."""
    validation_accuracy: float | None = None
    tokens_per_second: float | None = None
    """Sum over the ranks."""
    states: dict[str, str] = field(default_factory=dict)
    """State of each rank."""


def read(url: str, run: str) -> Progress:
    """Read the run's state from an address of /metrics. Raises OSError where nobody answers."""
    return parse(web.get(url), run)


def parse(exposition: str, run: str) -> Progress:
    """The run's state from the text of one scrape."""
    values = _Values(text_string_to_metric_families(exposition), run)
    step = values.of("training_step")
    return Progress(
        step=int(min(step)) if step else None,
        planned=next((int(value) for value in values.of("training_steps_planned")), None),
        loss=_mean(values.of("training_loss", split="train")),
        validation_loss=_mean(values.of("training_loss", split="validation")),
        accuracy=_mean(values.of("training_accuracy_ratio", split="train")),
        validation_accuracy=_mean(values.of("training_accuracy_ratio", split="validation")),
        tokens_per_second=sum(rates) if (rates := values.of("training_tokens_per_second")) else None,
        states=values.states(),
    )


class _Values:
    def __init__(self, families: Iterable[Metric], run: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                if sample.labels.get("run") == run:
                    self._samples[sample.name].append((sample.labels, sample.value))

    def of(self, name: str, **labels: str) -> list[float]:
        return [value for found, value in self._samples[name] if labels.items() <= found.items()]

    def states(self) -> dict[str, str]:
        present = [labels for labels, value in self._samples["training_state"] if value == 1]
        return {labels["rank"]: labels["state"] for labels in sorted(present, key=lambda each: each["rank"])}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
