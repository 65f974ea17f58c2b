"""A cluster on one machine: hosts that train, and a hub with Prometheus, Alertmanager and a receiver.

A host is a network, a host name, processes, a /dev/shm and a limit of memory of its own, as a container is.
Prometheus has the shipped rules, Alertmanager the shipped routes; both are on the hub, as the receiver is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hosts.world import REPOSITORY, RUN, Host, address, build
from trainbeacon.stack.receiver import Notification
from trainbeacon.stack.stack import Stack

PROGRAMS = ("nsenter", "setpriv")
NAMES = ("gpu-0", "gpu-1")
USER = 2001
INTERVAL = 2.0
TRAIN = REPOSITORY / "tests/hosts/train.py"
_MEMORY = Path("/sys/fs/cgroup/memory")
#: What a host may take: a rank with PyTorch takes about 300 MiB.
_LIMIT = 1_200_000_000


class Cluster:
    """The hosts and the servers, from entering to leaving the context."""

    def __enter__(self) -> Cluster:
        build(NAMES, {"ada": USER})
        (RUN / "jobs").mkdir()
        self._closing = contextlib.ExitStack()
        self.hosts: dict[str, Host] = {}
        for name in NAMES:
            self.boot(name)
        targets = [f"{name}:9797" for name in NAMES]
        self.stack = self._closing.enter_context(Stack(targets, interval=INTERVAL))
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        for host in self.hosts.values():
            host.lose()
        for name in NAMES:
            with contextlib.suppress(OSError):
                self._group(name).rmdir()

    def boot(self, name: str) -> None:
        """Start a host, anew if it was lost."""
        command = ["bash", "-c", "sleep infinity & wait"]
        self.hosts[name] = Host(NAMES.index(name), name, command, RUN / f"{name}.log", shm="32m")
        if _MEMORY.is_dir():
            group = self._group(name)
            group.mkdir(exist_ok=True)
            (group / "memory.limit_in_bytes").write_text(str(_LIMIT))

    @property
    def limits_memory(self) -> bool:
        """Whether hosts have a limit: this machine's control groups are those of version 1."""
        return _MEMORY.is_dir()

    def _group(self, name: str) -> Path:
        return _MEMORY / f"trainbeacon-tests-{name}-{os.getppid()}-{RUN.stat().st_dev}"

    @contextlib.contextmanager
    def job(self, run: str) -> Iterator[Job]:
        """Train on all hosts, until the context is left."""
        job = Job(self, run)
        try:
            job.wait_until_running()
            yield job
        finally:
            job.end()

    def messages(self, run: str) -> list[Notification]:
        """What has arrived about a run."""
        return [one for one in self.stack.notifications if one.labels.get("run") == run]


class Job:
    """torchrun on every host."""

    def __init__(self, cluster: Cluster, run: str) -> None:
        self.run = run
        self._cluster = cluster
        self.folder = RUN / "jobs" / run
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.processes = [self._launch(number, host) for number, host in enumerate(cluster.hosts.values())]

    def _launch(self, number: int, host: Host) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
            "PYTHONPATH": str(REPOSITORY / "exporter"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRAINBEACON_RUN": self.run,
            "TRAINBEACON_GPU": "false",
            "TRAINBEACON_OWNER": "nlp",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        port = 29500 + len(list((RUN / "jobs").iterdir()))
        torchrun = [
            *(
                sys.executable,
                "-m",
                "torch.distributed.run",
                f"--nnodes={len(NAMES)}",
                f"--node-rank={number}",
            ),
            *("--nproc-per-node=1", f"--master-addr={address(0)}", f"--master-port={port}", str(TRAIN)),
            str(self.folder),
        ]
        group = self._cluster._group(host.name) / "cgroup.procs"
        enter = f"echo $$ > {group}; " if self._cluster.limits_memory else ""
        drop = f"setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs"
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        # The group is joined outside: a host sees no control groups but its own.
        script = (
            f"{enter}exec nsenter --mount --net --uts --ipc --pid --target={host.pid} --wd=/"
            f" {drop} env -i {variables} {' '.join(torchrun)}"
        )
        with (RUN / f"{self.run}-{number}.log").open("wb") as log:
            return subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self) -> str:
        return "".join((RUN / f"{self.run}-{number}.log").read_text()[-1500:] for number in range(len(NAMES)))

    def running(self) -> int:
        """Ranks that Prometheus sees at work."""
        found = self._cluster.stack.query(f'training_state{{run="{self.run}",state="running"}} == 1')
        return len(found)

    def steps(self) -> float:
        """The furthest step that any rank has told Prometheus."""
        found = self._cluster.stack.query(f'max(training_step{{run="{self.run}"}})')
        return found[0][1] if found else 0.0

    def wait_until_running(self) -> None:
        end = time.monotonic() + 240
        while self.running() < len(NAMES) or self.steps() < 20:
            assert time.monotonic() < end, f"{self.run} does not train: {self.log()}"
            time.sleep(1)

    def end(self) -> None:
        """End what still trains: well, where it can."""
        (self.folder / "enough").touch()
        deadline = time.monotonic() + 20
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for host in self._cluster.hosts.values():
            if host.process.poll() is None:
                host.run(f"pkill --signal KILL --uid {USER} || true")
                host.run("rm -rf /dev/shm/trainbeacon-* /dev/shm/filler")
        for process in self.processes:
            process.kill()
            process.wait()
