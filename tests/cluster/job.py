"""A training over several hosts, a rank on each."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.cluster import PORTS, USERS, Cluster, name_of
from tests.cluster.nursery import Order
from tests.hosts.world import REPOSITORY, RUN, address

TRAIN = REPOSITORY / "tests/hosts/train.py"
#: For ranks to start on a busy machine.
START_SECONDS = 300.0
_STEP_SECONDS = "0.4"
_CLOCK = REPOSITORY / "tests/cluster/clock.c"


class Job:
    """A run on some hosts of the cluster.

    Args:
        hosts: numbers of the hosts, in order of the ranks.
        launcher: `fork` (ranks are forked from a process that has PyTorch), or `torchrun`.
        agents: the metrics are served by an agent on each host, else by an exporter that the ranks start.
        clock: seconds that the clock of the last host is ahead.
    """

    def __init__(
        self,
        cluster: Cluster,
        run: str,
        hosts: Sequence[int],
        *,
        launcher: str = "fork",
        user: str = "ada",
        agents: bool = False,
        clock: int = 0,
    ) -> None:
        self.cluster, self.run, self.hosts, self.user = cluster, run, list(hosts), user
        self._launcher, self._agents, self._clock = launcher, agents, clock
        #: Hosts that it had before, of which nobody else may have one until it is over.
        self.spent: list[int] = []
        self.folder = RUN / "jobs" / run
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o777)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.agents: dict[int, subprocess.Popen[bytes]] = {}

    # Starting

    def start(self) -> None:
        """Start every rank, and the agents."""
        for path in self.folder.iterdir():
            path.unlink()
        if self._agents:
            for number in self.hosts:
                self.start_agent(number)
        port = self.cluster.port()
        for rank, number in enumerate(self.hosts):
            self._start_rank(rank, number, port)

    def start_agent(self, number: int) -> None:
        """Start the agent of a host."""
        command = [*(sys.executable, "-m", "trainbeacon", "agent"), "--drain=5"]
        self.agents[number] = self._enter(number, self._environment(), command)

    def _start_rank(self, rank: int, number: int, port: int) -> None:
        size, master = len(self.hosts), address(self.hosts[0])
        script = [str(TRAIN), str(self.folder), "--step-seconds", _STEP_SECONDS]
        environment = self._environment()
        is_ahead = bool(self._clock) and number == self.hosts[-1]
        if is_ahead:
            environment |= _clock_ahead(self._clock)
        if self._launcher == "torchrun":
            options = [f"--nnodes={size}", f"--node-rank={rank}", "--nproc-per-node=1"]
            options += [f"--master-addr={master}", f"--master-port={port}"]
            command = [sys.executable, "-m", "torch.distributed.run", *options, *script]
            self._processes.append(self._enter(number, environment, command))
            return
        places = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        meeting = {"MASTER_ADDR": master, "MASTER_PORT": port}
        environment |= {name: str(value) for name, value in {**places, **meeting}.items()}
        if is_ahead:
            self._processes.append(self._enter(number, environment, [sys.executable, *script]))
            return
        group = self.cluster.group_of(number)
        self.cluster.nursery.start(
            Order(
                host=self.cluster.hosts[number].pid,
                group=str(group / "cgroup.procs") if group else "",
                user=USERS[self.user],
                environment=environment,
                arguments=script,
                log=str(self._log(number)),
            )
        )

    def _environment(self) -> dict[str, str]:
        port = PORTS[list(USERS).index(self.user)]
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
            "PYTHONPATH": str(REPOSITORY / "exporter"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRAINBEACON_RUN": self.run,
            "TRAINBEACON_GPU": "false",
            "TRAINBEACON_OWNER": "nlp",
            "TRAINBEACON_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            **({"TRAINBEACON_SERVE": "off"} if self._agents else {}),
        }

    def _enter(
        self, number: int, environment: Mapping[str, str], command: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        """Run a command on a host as the user, within the host's limit."""
        host, group = self.cluster.hosts[number], self.cluster.group_of(number)
        user = USERS[self.user]
        drop = f"setpriv --reuid={user} --regid={user} --clear-groups --no-new-privs"
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        # The group is joined outside: a host sees no control groups but its own.
        script = (
            f"{f'echo $$ > {group}/cgroup.procs; ' if group else ''}"
            f"exec nsenter --mount --net --uts --ipc --pid --target={host.pid} --wd=/"
            f" {drop} env -i {variables} {' '.join(command)}"
        )
        with self._log(number).open("ab") as log:
            return subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    # What is seen

    def targets(self) -> dict[str, str]:
        """The rank behind each address that Prometheus scrapes for this run."""
        port = PORTS[list(USERS).index(self.user)]
        return {f"{name_of(number)}:{port}": str(rank) for rank, number in enumerate(self.hosts)}

    def running(self) -> int:
        """Ranks that Prometheus sees at work."""
        return len(self._query(f'training_state{{run="{self.run}",state="running"}} == 1'))

    def steps(self) -> float:
        """The furthest step that any rank has reported to Prometheus."""
        found = self._query(f'max(training_step{{run="{self.run}"}})')
        return found[0][1] if found else 0.0

    def _query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What Prometheus says; nothing while it is away."""
        try:
            return self.cluster.stack.query(expression)
        except OSError:
            return []

    def wait_until_running(self, beyond: float = 5) -> None:
        """Until every rank is seen at work, that many steps made."""
        self._wait(lambda: self.running() >= len(self.hosts) and self.steps() >= beyond, "does not train")

    def goes_on(self) -> bool:
        """Whether steps are made from here on."""
        begun, end = self.steps(), time.monotonic() + 60
        while time.monotonic() < end:
            if self.steps() > begun:
                return True
            time.sleep(2)
        return False

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.run} {what}:\n{self.logs()}")
            time.sleep(1)

    def _log(self, number: int) -> Path:
        return RUN / f"{self.run}-{name_of(number)}.log"

    def logs(self) -> str:
        """The end of what each rank has printed."""
        logs = [self._log(number) for number in self.hosts]
        return "\n".join(f"{log.name}: {log.read_text()[-700:]}" for log in logs if log.exists())

    # Ending

    def terminate(self) -> None:
        """SIGTERM to every rank, as of a node that is drained; they save and end."""
        for number in self.hosts:
            self.cluster.hosts[number].run(
                f"pkill --signal TERM --uid {USERS[self.user]} --full 'nursery|train.py' || true"
            )
        # The first that is asked takes all along: who has ended by then is not asked any more.
        self._wait(lambda: any(self.folder.glob("checkpoint-*")) and self.running() == 0, "does not save")

    def finish(self) -> None:
        """Let it end well, and wait until that is seen."""
        (self.folder / "enough").touch()
        self._wait(lambda: self.running() == 0, "does not end")

    def kill(self) -> None:
        """Kill what is left on the hosts that are up, whatever state it is in."""
        for number in self.hosts:
            host = self.cluster.hosts[number]
            if host.process.poll() is None:
                with contextlib.suppress(subprocess.SubprocessError):
                    host.run(f"pkill --signal KILL --uid {USERS[self.user]} || true")
        for process in [*self._processes, *self.agents.values()]:
            process.kill()
            process.wait()
        self._processes.clear()


def _clock_ahead(seconds: int) -> dict[str, str]:
    """What makes a process believe in another time of day; see clock.c."""
    library = RUN / f"clock-{seconds}.so"
    if not library.exists():
        made = library.with_suffix(f".{threading.get_ident()}")
        command = [
            "cc",
            "-shared",
            "-fPIC",
            "-O2",
            f"-DAHEAD={seconds}",
            "-o",
            str(made),
            str(_CLOCK),
            "-ldl",
        ]
        subprocess.run(command, check=True, timeout=120)
        made.replace(library)
    return {"LD_PRELOAD": str(library)}
