"""What is known of runs at one moment, from black boxes, exporters or Prometheus alike.

None means: not known, or does not apply. Times are Unix seconds, shares 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Cluster, namespace and name of a run: what tells two runs apart.
RunKey = tuple[str, str, str]

#: Labels of `training_rank_info` in which ranks that do the same work are alike.
PEER_LABELS = ("stage", "context_rank", "expert_rank")
#: Phases in which one call may take long for a good reason, as the alert rules see it.
SLOW_PHASES = frozenset({"init", "resume", "compile", "warmup", "evaluate", "checkpoint"})


@dataclass(slots=True)
class Rank:
    """One rank: the newest process that had its number."""

    number: int
    host: str = ""
    gpu: str = ""
    source: str = ""
    peers: tuple[str, ...] = ()
    """What it has in common with the ranks that do the same work, by `PEER_LABELS`."""
    state: str = ""
    phase: str = ""
    phase_since: float | None = None
    started: float | None = None
    heartbeat: float | None = None
    last_step_at: float | None = None
    step: float | None = None
    steps_made: float | None = None
    """Steps of this process."""
    epoch: float | None = None
    step_seconds: float | None = None
    """Mean time of a step over the window that was looked at."""
    own_seconds: float | None = None
    """Part of it in which the rank waited for no other."""
    causes: Mapping[str, float] = field(default_factory=dict)
    """That part by what the rank did."""
    window: float = 0.0
    """Seconds that the three were seen over; 0 if they are means since the start of the process."""
    excess: float | None = None
    """Own time beyond that of its peers, as a share of a step."""
    lasting_excess: float | None = None
    """The same over half a minute or more: of this window, else of the life of the process."""
    life_own_seconds: float | None = None
    life_step_seconds: float | None = None
    life_data_wait: float | None = None
    """Own time, step and wait for data over the life of the process, once it has made enough steps."""
    cause: str = ""
    """What the rank takes longer at than its peers."""
    data_wait: float | None = None
    """Share of its time in which it waited for the next batch."""
    lag: int | None = None
    """Collectives that the first of its peers has begun and it has not, the most over its groups."""
    waits: bool = False
    """Whether it is in a collective that it has not seen the end of."""
    inactive: float | None = None
    memory: float | None = None
    """Bytes: of the GPU's allocator where there is one, else resident."""
    loss: float | None = None
    validation_loss: float | None = None
    nonfinite_losses: float | None = None
    nonfinite_step: float | None = None
    nonfinite_at: str = ""
    """Layer and kind of the first NaN or infinity."""
    samples_rate: float | None = None
    tokens_rate: float | None = None
    mfu: float | None = None
    learning_rate: float | None = None
    loss_scale: float | None = None
    allocator_retries: float | None = None
    """Within the window."""
    checkpoint_failures: float | None = None
    """Within the window."""
    failure: str = ""
    """Exception that ended it."""
    failure_kind: str = ""
    failure_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.state == "running"


@dataclass(slots=True)
class Gpu:
    """One GPU of one node."""

    source: str
    index: str
    name: str = ""
    host: str = ""
    up: bool = True
    utilization: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    clock: float | None = None
    throttled: tuple[str, ...] = ()
    xid: float | None = None
    xid_at: float | None = None
    recovery_action: float | None = None
    run: str = ""
    rank: int | None = None
    """Run and rank that work on it."""


@dataclass(slots=True)
class Node:
    """One node, as its exporter sees it."""

    source: str
    host: str = ""
    cpu: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    shared_used: float | None = None
    shared_total: float | None = None


@dataclass(slots=True)
class Run:
    """One run."""

    key: RunKey
    ranks: list[Rank] = field(default_factory=list)
    world_size: int | None = None
    owner: str = ""
    project: str = ""
    steps_planned: float | None = None
    elapsed: float | None = None
    goodput: float | None = None
    losses: Sequence[float] = ()
    """Recent training losses, oldest first."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    overfitting_evaluations: float | None = None
    collisions: float | None = None
    checkpoint_at: float | None = None
    checkpoint_step: float | None = None

    @property
    def name(self) -> str:
        """Its name, with cluster and namespace where there are such."""
        return "/".join(part for part in self.key if part)


@dataclass(frozen=True)
class Alert:
    """A firing alert, as Prometheus gives it."""

    name: str
    severity: str
    labels: Mapping[str, str]
    summary: str
    description: str = ""
    action: str = ""
    since: float | None = None


@dataclass(frozen=True)
class Source:
    """Where facts come from, and how that went."""

    name: str
    taken_at: float | None = None
    """Of the facts that are shown, None if it never answered."""
    error: str = ""
    """Why the last look failed; empty if it did not."""


@dataclass
class Facts:
    """All of it at one moment."""

    now: float
    runs: list[Run] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    alerts: list[Alert] | None = None
    """None where no Prometheus was asked."""
