"""A small site with Slurm: munge, slurmctld on the hub, a slurmd on each host, a shared file system.

`train.sbatch` is submitted as it is shipped: nodes have the processors and GPUs (which are none) that it
asks for. Slurm kills what is left of a step as it does by default outside of cgroups.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.hosts.world import HUB, REPOSITORY, RUN, Host, build

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
NODES = ("n0", "n1", "n2")
USERS = {"ada": 2001, "bob": 2002}
SHARED = RUN / "shared"
TARGETS = SHARED / "targets"
SCRIPT = REPOSITORY / "deploy/slurm/train.sbatch"
_CONF = RUN / "slurm"
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

SLURM_CONF = f"""\
ClusterName=site
SlurmctldHost=hub({HUB})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={RUN}/munge/socket
CredType=cred/munge
StateSaveLocation={_CONF}/state
SlurmdSpoolDir={_CONF}/spool.%n
SlurmctldPidFile={_CONF}/slurmctld.pid
SlurmdPidFile={_CONF}/slurmd.%n.pid
SlurmctldLogFile={_CONF}/slurmctld.log
SlurmdLogFile={_CONF}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
MinJobAge=600
SchedulerParameters=batch_sched_delay=0,sched_interval=2
GresTypes=gpu
{{more}}
NodeName={",".join(NODES)} CPUs=128 Gres=gpu:8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


class Site:
    """Starts all of it at once. `epilog`, `prolog`, `task_prolog`: programs that Slurm shall run."""

    def __init__(self, **programs: str) -> None:
        build(["n0", "n1", "n2"], USERS)
        for folder, mode in ((_CONF, 0o755), (SHARED, 0o777), (TARGETS, 0o1777), (RUN / "munge", 0o755)):
            folder.mkdir(parents=True)
            folder.chmod(mode)
        for number in range(8):  # Slurm asks no more of a device than that it is one
            subprocess.run(["mknod", "-m", "666", _CONF / f"gpu{number}", "c", "1", "3"], check=True)
        self.programs = programs
        self._munge()
        self.configure()
        self._controller = self._start("slurmctld", "-D", "-i")
        self.hosts: dict[str, Host] = {}
        for name in NODES:
            self.boot(name)

    def configure(self) -> None:
        """Write the configuration, and have a Slurm that runs read it again."""
        more = "\n".join(f"{name}={program}" for name, program in self.programs.items())
        (_CONF / "slurm.conf").write_text(SLURM_CONF.replace("{more}", more))
        (_CONF / "gres.conf").write_text(f"Name=gpu File={_CONF}/gpu[0-7]\n")
        os.environ["SLURM_CONF"] = str(_CONF / "slurm.conf")
        if hasattr(self, "_controller"):
            self.scontrol("reconfigure")

    def boot(self, name: str) -> None:
        """Start a node, or start it anew after it was lost."""
        number = NODES.index(name)
        # Not as the first process, which adopts what jobs leave behind.
        command = ["bash", "-c", f"slurmd -D -N {name} -f {_CONF}/slurm.conf & wait"]
        self.hosts[name] = Host(number, name, command, _CONF / f"{name}.out")

    def _munge(self) -> None:
        folder = RUN / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {
            "key-file": key,
            "socket": folder / "socket",
            "pid-file": folder / "pid",
            "seed-file": folder / "seed",
        }
        options = [f"--{name}={path}" for name, path in files.items()]
        self._munged = self._start("munged", "--foreground", "--force", f"--log-file={folder}/log", *options)
        wait_for((folder / "socket").exists, 30, "munge")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (RUN / f"{command[0]}.out").open("ab") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    # What users do

    def sbatch(self, *arguments: str | Path, user: str = "ada", **variables: str) -> int:
        """Submit as a user; returns the job's number."""
        return int(self.as_user(user, "sbatch", "--parsable", *map(str, arguments), **variables).strip())

    def as_user(self, user: str, *command: str, **variables: str) -> str:
        """What a command prints that a user runs on the login node, which is the hub."""
        home = RUN / "home" / user
        own = {
            "PATH": f"{programs()}:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(home),
            "USER": user,
            "SLURM_CONF": os.environ["SLURM_CONF"],
            "TARGETS": str(TARGETS),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }
        number = USERS[user]
        drop = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"]
        done = subprocess.run(
            [*drop, *command], env=own, cwd=home, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def output(self, job: int | str, user: str = "ada") -> str:
        """What a job has printed so far."""
        path = RUN / "home" / user / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    # What Slurm says

    def scontrol(self, *arguments: str) -> str:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout

    def job(self, job: int) -> dict[str, str]:
        """The fields that `scontrol show job` has."""
        pairs = self.scontrol("show", "job", str(job), "--oneliner").split()
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    def state(self, job: int) -> str:
        return self.job(job)["JobState"]

    def wait_until_over(self, job: int, seconds: float = 120) -> str:
        """The state that a job ended in, once no node is cleaning up after it any more."""
        over = lambda: self.state(job) in _ENDED  # noqa: E731
        wait_for(over, seconds, lambda: f"end of job {job}: {self.job(job)}\n{self.output(job)}")
        return self.state(job)

    def close(self) -> None:
        """End it all; the world would do it too."""
        for host in self.hosts.values():
            host.lose()
        for process in (self._controller, self._munged):
            process.kill()
            process.wait()

    def queue(self) -> list[str]:
        """The jobs that are not over."""
        done = subprocess.run(
            ["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    def wait_until_idle(self) -> None:
        """Until every node can take jobs."""
        idle = lambda: set(self._nodes()) == {"idle"}  # noqa: E731
        wait_for(idle, 60, lambda: f"idle nodes: {self._nodes()}\n{(_CONF / 'n0.out').read_text()}")

    def _nodes(self) -> list[str]:
        command = ["sinfo", "--noheader", "--Node", "--format=%T"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    def cancel_all(self) -> None:
        """End every job at once, boot what was lost, and remove what was left."""
        for job in self.queue():
            subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
            subprocess.run(["scancel", job], check=True)
        for name, host in self.hosts.items():
            if host.process.poll() is not None:
                self.boot(name)
        wait_for(lambda: not self.queue(), 90, lambda: f"end of {self.queue()}")
        self.wait_until_idle()
        for host in self.hosts.values():
            for number in USERS.values():  # an exporter that lingers would make its folder anew
                host.run(f"pkill --signal KILL --uid {number} || true")
            host.run("rm -rf /dev/shm/trainbeacon*")
        for path in TARGETS.iterdir():
            path.unlink()

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """As when slurmctld is restarted: no command of Slurm's gets an answer meanwhile."""
        self._controller.terminate()
        self._controller.wait()
        try:
            yield
        finally:
            self._controller = self._start("slurmctld", "-D")
            self.wait_until_idle_or_busy()

    def wait_until_idle_or_busy(self) -> None:
        """Until the controller answers."""
        answers = lambda: subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0  # noqa: E731
        wait_for(answers, 60, "slurmctld")

    # What we serve

    def clean_targets(self, *arguments: str) -> str:
        """What the helper prints that a cron job runs."""
        program = REPOSITORY / "deploy/slurm/clean-targets.py"
        command = [sys.executable, str(program), str(TARGETS), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def targets(self) -> dict[str, str]:
        """Address by name of file, of what is announced."""
        return {path.name: json.loads(path.read_text())[0]["targets"][0] for path in TARGETS.glob("*.json")}

    def leftovers(self) -> dict[str, set[str]]:
        """What of ours lies in /dev/shm of each node, and among the targets."""
        found = {
            name: {entry for entry in host.shm() if "trainbeacon" in entry}
            for name, host in self.hosts.items()
        }
        return {"targets": set(self.targets()), **found}


CLEAN: dict[str, set[str]] = {"targets": set(), **{name: set() for name in NODES}}


def scrape(target: str) -> str:
    """The metrics at an announced address; empty where nobody answers."""
    try:
        with urlopen(f"http://{target}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def programs() -> Path:
    """A folder with what a job needs on its PATH: python, torchrun and trainbeacon of these tests."""
    folder = RUN / "bin"
    if not folder.exists():
        folder.mkdir()
        modules = {"torchrun": "torch.distributed.run", "trainbeacon": "trainbeacon"}
        for name, module in {"python": "", "python3": "", **modules}.items():
            line = f'exec {sys.executable} {f"-m {module}" if module else ""} "$@"'
            (folder / name).write_text(f"#!/bin/sh\nexport PYTHONPATH={REPOSITORY / 'exporter'}\n{line}\n")
            (folder / name).chmod(0o755)
    return folder


def wait_for(condition: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    """What the condition returns once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
