"""The native sidecar, rehearsed without a cluster: two users, two mount, pid and ipc namespaces, one volume.

What the kubelet does is done by hand: the volume is set up as an in-memory emptyDir under an `fsGroup`, the
agent starts first, each program is PID 1 of its container and runs as its user without capabilities.
The network is shared, as in a pod. Users are distinguished only where the tests run as root.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.chart.rendering import REPOSITORY, render, sample_job
from tests.serving import PATIENCE, request, scrape, wait_for
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import series

AS_ROOT = os.geteuid() == 0
FS_GROUP = 2000
TRAINER = Path(__file__).with_name("trainer.py")
#: The tests' own Python where every user may run it: it may lie in a home folder.
PYTHON = "/mnt/python/bin/" + os.path.basename(os.path.realpath(sys.executable))
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "PYTHONPATH": "/mnt/package:/mnt/site",
    "LD_LIBRARY_PATH": "/mnt/python/lib",
}


@dataclass
class Container:
    """A running program and the process that keeps its namespaces."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def pid(self) -> int:
        """Its PID 1, as the machine numbers it."""
        return wait_for(lambda: psutil.Process(self.process.pid).children(), what="PID 1")[0].pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


class Pod:
    """Starts containers that share a volume and the network; ends them all."""

    def __init__(self, folder: Path, mount_path: str) -> None:
        self._folder = folder
        self._mount_path = mount_path
        self._containers: list[Container] = []
        self._volume = Path(tempfile.mkdtemp(prefix="trainbeacon-rehearsal-", dir="/dev/shm"))
        if AS_ROOT:
            os.chown(self._volume, 0, FS_GROUP)
        self._volume.chmod(0o2777)  # what an emptyDir has under an fsGroup

    def start(self, name: str, user: int, command: list[str], **variables: str) -> Container:
        drop = (
            f"setpriv --reuid {user} --regid {user} --groups {FS_GROUP} --bounding-set=-all --inh-caps=-all"
        )
        run = [*(shlex.split(drop + " --no-new-privs") if AS_ROOT else ()), *command]
        script = f"""
            set -e
            mount -t tmpfs tmpfs /mnt
            mkdir /mnt/python /mnt/volume /mnt/package /mnt/site /mnt/tests
            mount --bind {sys.base_prefix} /mnt/python
            mount --bind {self._volume} /mnt/volume
            mount --bind {REPOSITORY / "exporter"} /mnt/package
            mount --bind {sysconfig.get_path("purelib")} /mnt/site
            mount --bind {TRAINER.parent} /mnt/tests
            mount -t tmpfs tmpfs /run
            mkdir -p {self._mount_path}
            mount --bind /mnt/volume {self._mount_path}
            mount -t tmpfs -o size=1m tmpfs /dev/shm
            cd /
            exec {shlex.join(run)}
        """
        namespaces = ["--mount", "--pid", "--ipc", "--fork", "--kill-child"]
        namespaces += ["--mount-proc"] if AS_ROOT else ["--user", "--map-root-user"]
        log = self._folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", script],
                env={**_ENVIRONMENT, **variables},
                stdout=output,
                stderr=output,
                text=True,
            )
        self._containers.append(Container(process, log))
        return self._containers[-1]

    def close(self) -> None:
        for container in self._containers:
            container.process.kill()  # --kill-child takes the namespace along
            container.process.wait()
        shutil.rmtree(self._volume)


@pytest.fixture
def job(helm: str) -> dict:
    """The pod of the chart's sample job."""
    job = sample_job(render(helm, "--set", "sampleJob.enabled=true"))
    return dict(job["spec"]["template"]["spec"])


@pytest.fixture
def pod(tmp_path: Path, job: dict) -> Iterator[Pod]:
    made = Pod(tmp_path, job["initContainers"][0]["volumeMounts"][0]["mountPath"])
    yield made
    made.close()


def test_killed_trainer_is_served_as_crashed(pod: Pod, job: dict) -> None:
    """The whole container of the trainer is killed at once, as by the OOM killer: its ranks are reported.

    Then the agent gets SIGTERM, as a sidecar does when the other containers have ended, and stays until
    two scrapes saw the end. Its arguments and the trainer's variables are those that the chart renders.
    """
    (agent_spec,), (trainer_spec,) = job["initContainers"], job["containers"]
    port = free_port()
    arguments = [part for part in agent_spec["args"] if not part.startswith("--port")]
    command = [PYTHON, "-m", "trainbeacon", *arguments, f"--port={port}", "--host=127.0.0.1", "--no-gpu"]
    agent = pod.start("agent", agent_spec["securityContext"]["runAsUser"], command)
    url = f"http://127.0.0.1:{port}/metrics"
    wait_for(lambda: _answers(url), what="agent: " + agent.log.read_text())

    variables = {one["name"]: one["value"] for one in trainer_spec["env"]}
    user = trainer_spec["securityContext"]["runAsUser"]
    trainer = pod.start("trainer", user, [PYTHON, "/mnt/tests/trainer.py"], **variables)
    wait_for(lambda: _states(url) == {0: "running", 1: "running"}, what="ranks: " + trainer.log.read_text())
    if AS_ROOT:
        assert {user} == {psutil.Process(trainer.pid).uids().real}
        assert psutil.Process(agent.pid).uids().real != user

    trainer.signal(signal.SIGKILL)
    trainer.process.wait(PATIENCE)
    wait_for(lambda: _states(url) == {0: "crashed", 1: "crashed"}, what="crashed")
    agent.signal(signal.SIGTERM)
    last = _scrapes_until_it_ends(url)
    assert 0 == agent.process.wait(PATIENCE)
    assert len(last) >= 2
    assert all(states == {0: "crashed", 1: "crashed"} for states in last)


def test_grace_period_leaves_time_for_the_last_scrapes(job: dict) -> None:
    """The agent waits 30 s at most for two scrapes; the kubelet must not kill it before."""
    from trainbeacon.exporter.service import DRAIN_SECONDS

    assert job["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + 15
    assert "Always" == job["initContainers"][0]["restartPolicy"]
    assert {"medium": "Memory", "sizeLimit": "64Mi"} in [one.get("emptyDir") for one in job["volumes"]]


def _scrapes_until_it_ends(url: str) -> list[dict[int, str]]:
    """What two scrapes a second show until nobody answers any more."""
    seen: list[dict[int, str]] = []
    for _ in range(50):
        try:
            seen.append(_states(url))
        except OSError:
            return seen
        time.sleep(0.5)  # the interval of this Prometheus
    return []


def _answers(url: str) -> bool:
    try:
        return request(url).status == 200
    except OSError:
        return False


def _states(url: str) -> dict[int, str]:
    """The present state of each rank of the rehearsal."""
    served = scrape(url)
    return {
        rank: state
        for rank in range(2)
        for state in ("running", "finished", "failed", "exited", "crashed")
        if served.get(series("training_state", run="rehearsal", rank=rank, state=state)) == 1
    }
