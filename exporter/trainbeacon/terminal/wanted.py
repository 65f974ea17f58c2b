"""Which series are read, and what they become: a field of a rank, a run, a GPU, a node or a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trainbeacon import catalogue
from trainbeacon.verdict.facts import PEER_LABELS

#: What a series can be of, with the labels that name it.
SUBJECTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rank": ("cluster", "namespace", "run", "rank"),
        "run": ("cluster", "namespace", "run"),
        "gpu": ("cluster", "instance", "gpu"),
        "node": ("cluster", "instance"),
        "group": ("cluster", "namespace", "run", "rank", "group"),
        "threshold": ("cluster", "namespace", "run", "name"),
    }
)


@dataclass(frozen=True)
class Want:
    """One metric that is read.

    Attributes:
        subject: what it is of.
        field: where its value goes; `{}` stands for the value of the label `by`.
        by: a label of closed values that the field depends on.
        only: the values of `by` that are read; empty for all.
        chosen: the label whose value is the answer where the series is 1: a state, a phase.
        texts: labels that are kept as texts.
        counter: whether it only grows, so that Prometheus is asked for its rate.
    """

    subject: str
    field: str
    by: str = ""
    only: frozenset[str] = frozenset()
    chosen: str = ""
    texts: tuple[str, ...] = ()
    counter: bool = False

    @property
    def is_choice(self) -> bool:
        """Whether the value says yes or no, and the labels are what counts."""
        return bool(self.chosen or self.texts)


def _rank(name: str, **more: object) -> Want:
    return Want("rank", name, **more)  # type: ignore[arg-type]


WANTED: Mapping[str, Want] = MappingProxyType(
    {
        "training_state": _rank("state", chosen="state"),
        "training_phase": _rank("phase", chosen="phase"),
        "training_phase_start_timestamp_seconds": _rank("phase_since"),
        "training_start_timestamp_seconds": _rank("started"),
        "training_heartbeat_timestamp_seconds": _rank("heartbeat"),
        "training_last_step_timestamp_seconds": _rank("last_step_at"),
        "training_step": _rank("step"),
        "training_steps_total": _rank("steps_made"),
        "training_epoch": _rank("epoch"),
        "training_world_size": _rank("world_size"),
        "training_step_duration_seconds_sum": _rank("duration_sum", counter=True),
        "training_step_duration_seconds_count": _rank("duration_count", counter=True),
        "training_self_seconds_total": _rank("self_{}", by="cause", counter=True),
        "training_phase_seconds_total": _rank(
            "{}_total", by="phase", only=frozenset({"data_wait"}), counter=True
        ),
        "training_inactive_seconds": _rank("inactive"),
        "training_loss": _rank("loss_{}", by="split", only=frozenset({"train", "validation"})),
        "training_loss_nonfinite_total": _rank("nonfinite_losses"),
        "training_nonfinite_first_step": _rank("nonfinite_step"),
        "training_nonfinite_info": _rank("nonfinite_at", texts=("layer", "kind")),
        "training_samples_per_second": _rank("samples_rate"),
        "training_tokens_per_second": _rank("tokens_rate"),
        "training_mfu_ratio": _rank("mfu"),
        "training_learning_rate": _rank("learning_rate_{}", by="group"),
        "training_loss_scale": _rank("loss_scale"),
        "training_allocator_bytes": _rank("allocator_{}", by="kind", only=frozenset({"reserved"})),
        "training_allocator_retries_total": _rank("allocator_retries", counter=True),
        "training_process_resident_memory_bytes": _rank("resident"),
        "training_checkpoint_failures_total": _rank("checkpoint_failures", counter=True),
        "training_checkpoint_last_success_timestamp_seconds": _rank("checkpoint_at"),
        "training_checkpoint_step": _rank("checkpoint_step"),
        "training_failure_info": _rank("failure", texts=("exception", "kind")),
        "training_failure_timestamp_seconds": _rank("failure_at"),
        "training_rank_info": _rank("place", texts=("hostname", "gpu", "instance", *PEER_LABELS)),
        "training_collectives_enqueued_total": Want("group", "begun"),
        "training_collectives_completed_total": Want("group", "ended"),
        "training_steps_planned": Want("run", "steps_planned"),
        "training_elapsed_seconds": Want("run", "elapsed"),
        "training_run_seconds": Want("run", "seconds_{}", by="kind"),
        "training_goodput_seconds_total": Want("run", "process_{}", by="kind"),
        "training_overfitting_evaluations": Want("run", "overfitting_evaluations"),
        "trainbeacon_run_name_collisions": Want("run", "collisions"),
        "training_run_info": Want("run", "info", texts=("owner", "project")),
        "training_threshold": Want("threshold", "value"),
        "training_gpu_up": Want("gpu", "up"),
        "training_gpu_utilization_ratio": Want("gpu", "utilization"),
        "training_gpu_memory_used_bytes": Want("gpu", "memory_used"),
        "training_gpu_memory_total_bytes": Want("gpu", "memory_total"),
        "training_gpu_temperature_celsius": Want("gpu", "temperature"),
        "training_gpu_power_watts": Want("gpu", "power"),
        "training_gpu_power_limit_watts": Want("gpu", "power_limit"),
        "training_gpu_clock_hertz": Want("gpu", "clock_{}", by="clock", only=frozenset({"sm"})),
        "training_gpu_throttled": Want("gpu", "throttled_{}", by="reason"),
        "training_gpu_xid_last": Want("gpu", "xid"),
        "training_gpu_xid_last_timestamp_seconds": Want("gpu", "xid_at"),
        "training_gpu_recovery_action": Want("gpu", "recovery_action"),
        "training_gpu_info": Want("gpu", "name", texts=("name",)),
        "training_host_cpu_ratio": Want("node", "cpu"),
        "training_host_memory_used_bytes": Want("node", "memory_used"),
        "training_host_memory_total_bytes": Want("node", "memory_total"),
        "training_host_shared_memory_used_bytes": Want("node", "shared_used"),
        "training_host_shared_memory_total_bytes": Want("node", "shared_total"),
    }
)


def fields_of(subject: str) -> tuple[str, ...]:
    """All fields of a subject, in a fixed order."""
    return tuple(
        dict.fromkeys(
            field for name, want in WANTED.items() if want.subject == subject for field in _fields(name, want)
        )
    )


def _fields(name: str, want: Want) -> list[str]:
    if not want.by:
        return [want.field]
    metric = catalogue.BY_NAME[name]
    values = next(label.values for label in metric.labels if label.name == want.by)
    return [want.field.format(value) for value in values if not want.only or value in want.only]
