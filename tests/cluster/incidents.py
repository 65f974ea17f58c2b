"""What goes wrong in a cluster and nowhere else, and which messages must and must not arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cluster.cluster import NAMES, Cluster, Job
from tests.hosts.world import address, shell
from trainbeacon.stack.receiver import Notification

LOST = ("TrainingRankLost", "TrainingRanksLost", "TrainingRunFailed")
OUT_OF_SIGHT = ("TrainBeaconExporterBlind",)


@dataclass(frozen=True)
class Verdict:
    """What came of an incident: `problems` is empty if all that was asked for is so."""

    name: str
    problems: list[str]
    seconds: float
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Incident:
    """`act` lets it happen; then `play` waits for the messages.

    Args:
        expected: of these alerts at least one must arrive within `seconds`.
        culprit: a text that some message about the run must have in its labels or words.
        forbidden: none of these may arrive, until `watch` seconds later, or until the end is reported.
        mend: undoes it, and then the expected must be reported as over; without it that is not looked at.
        trains: the job goes on meanwhile.
    """

    name: str
    act: Callable[[Cluster, Job], None]
    expected: tuple[str, ...] = ()
    culprit: str = ""
    forbidden: tuple[str, ...] = ()
    seconds: float = 300.0
    watch: float = 20.0
    mend: Callable[[Cluster, Job], None] | None = None
    trains: bool = False
    needs_memory_limit: bool = False

    def play(self, cluster: Cluster) -> Verdict:
        """Start a job, let it happen, and judge."""
        begun = time.monotonic()
        problems: list[str] = []
        with cluster.job(self.name) as job:
            self.act(cluster, job)
            begun = time.monotonic()
            if self.expected:
                first = _wait(lambda: _about(cluster, job, self.expected), self.seconds)
                if not first:
                    problems.append(f"none of {self.expected} within {self.seconds:.0f} s")
            seconds = time.monotonic() - begun
            before = job.steps()
            time.sleep(self.watch)
            if self.trains and job.steps() <= before:
                problems.append("training does not go on")
            if self.culprit and not _names(cluster, job, self.culprit):
                problems.append(f"no message names {self.culprit}")
            if self.mend is not None:
                self.mend(cluster, job)
                if not _wait(lambda: _over(cluster, job, self.expected), 300):
                    problems.append("the end was not reported")
            wrong = {one.alert for one in cluster.messages(job.run) if one.alert in self.forbidden}
            problems += [f"{name} arrived" for name in sorted(wrong)]
            said = [
                f"{one.status} {one.alert} {one.labels.get('rank', '')}" for one in cluster.messages(job.run)
            ]
        return Verdict(self.name, problems, seconds, said)


def _wait(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(1)
    return False


def _about(cluster: Cluster, job: Job, names: tuple[str, ...]) -> list[Notification]:
    return [one for one in cluster.messages(job.run) if one.alert in names and one.status == "firing"]


def _names(cluster: Cluster, job: Job, culprit: str) -> bool:
    texts = (f"{dict(one.labels)} {dict(one.annotations)}" for one in cluster.messages(job.run))
    return any(culprit in text for text in texts)


def _over(cluster: Cluster, job: Job, names: tuple[str, ...]) -> bool:
    last = {one.alert: one.status for one in cluster.messages(job.run) if one.alert in names}
    return bool(last) and set(last.values()) == {"resolved"}


def _lose(cluster: Cluster, job: Job) -> None:
    cluster.hosts[NAMES[1]].lose()


def _eat(cluster: Cluster, job: Job) -> None:
    (job.folder / "eat-1").touch()


def _hide(cluster: Cluster, job: Job) -> None:
    """Prometheus reaches the host no more; the hosts reach each other."""
    shell(f"ip route add blackhole {address(1)}/32")


def _show(cluster: Cluster, job: Job) -> None:
    shell(f"ip route del blackhole {address(1)}/32")


def _fill(cluster: Cluster, job: Job) -> None:
    cluster.hosts[NAMES[1]].run("cat /dev/zero > /dev/shm/filler 2>/dev/null || true")


INCIDENTS = (
    Incident("healthy", lambda cluster, job: None, forbidden=(*LOST, *OUT_OF_SIGHT), watch=45, trains=True),
    Incident("host-lost", _lose, expected=LOST, culprit="gpu-1"),
    Incident(
        "prometheus-cut-off",
        _hide,
        expected=OUT_OF_SIGHT,
        culprit="gpu-1",
        forbidden=LOST,
        watch=60,
        mend=_show,
        trains=True,
    ),
    Incident("rank-oom-killed", _eat, expected=LOST, culprit="'rank': '1'", needs_memory_limit=True),
    Incident("shared-memory-full", _fill, forbidden=(*LOST, *OUT_OF_SIGHT), watch=60, trains=True),
)
SHORT = ("host-lost",)
