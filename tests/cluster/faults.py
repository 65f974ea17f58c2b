"""What goes wrong in a cluster and nowhere else: how it is done."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.campaign.kinds.kind import Kind
from tests.cluster.job import Job
from tests.hosts.world import REPOSITORY, address, shell
from trainbeacon.stack import processes, web
from trainbeacon.stack.stack import StackError


@dataclass
class Stage:
    """A job in which something happens to the rank `victim`, and the host it is on."""

    job: Job
    victim: int
    wire: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> int:
        """Number of the victim's host."""
        return self.job.hosts[self.victim]


@dataclass(frozen=True)
class Fault:
    """One kind of incident and how it is made.

    Attributes:
        act: lets it happen.
        mend: undoes it, after which `kind.closed` must be reported.
        goes_on: steps are made all the while.
        server: what happens to a server happens to all runs at once: nothing else is played meanwhile, and
            all incidents of this name are played together. `act` is called for one of them.
        act_each: what happens to each of those before.
        midway: what happens once the incident was reported, before it is mended; to a server once for all of
            them, when each was reported.
        clock, agents, second: see `Job`; a second tenant trains on the same hosts.
    """

    kind: Kind
    act: Callable[[Stage], None]
    mend: Callable[[Stage], None] | None = None
    goes_on: bool = False
    server: str = ""
    act_each: Callable[[Stage], None] | None = None
    midway: Callable[[Stage], None] | None = None
    clock: int = 0
    agents: bool = False
    second: bool = False


def do_nothing(stage: Stage) -> None:
    pass


def eat(stage: Stage) -> None:
    (stage.job.folder / f"eat-{stage.victim}").touch()


def eat_all(stage: Stage) -> None:
    """The limit kills the container, not a process of it: as `memory.oom.group` of later control groups."""
    group = stage.job.cluster.group_of(stage.host)
    assert group
    (group / "memory.oom_control").write_text("1")
    eat(stage)
    deadline = time.monotonic() + 120
    while "under_oom 1" not in (group / "memory.oom_control").read_text():
        assert time.monotonic() < deadline, "the limit was not reached"
        time.sleep(0.1)
    lose(stage)


def lose(stage: Stage) -> None:
    stage.job.cluster.hosts[stage.host].lose()


def cut(stage: Stage) -> None:
    shell(f"ip link set v{stage.host} down")


def plug(stage: Stage) -> None:
    shell(f"ip link set v{stage.host} up")


def hide(stage: Stage) -> None:
    """Prometheus reaches the host no more; the hosts reach each other."""
    shell(f"ip route add blackhole {address(stage.host)}/32")


def show(stage: Stage) -> None:
    shell(f"ip route del blackhole {address(stage.host)}/32")


def fill(stage: Stage) -> None:
    stage.job.cluster.hosts[stage.host].run("cat /dev/zero > /dev/shm/filler 2>/dev/null || true")


def spoil(stage: Stage) -> None:
    """The link of the host loses a fifth and takes 200 ms each way."""
    host, wire = stage.job.cluster.hosts[stage.host], [sys.executable, "-m", "tests.cluster.wire"]
    own, other, inner = f"v{stage.host}", f"w{stage.host}", f"u{stage.host}"
    enter = ["nsenter", f"--net=/proc/{host.pid}/ns/net"]
    subprocess.run([*enter, *wire, "--plain", "eth0"], check=True, cwd=REPOSITORY)
    shell(f"ip link add {other} type veth peer name {inner}; ip link set {other} up; ip link set {inner} up")
    subprocess.run([*wire, "--plain", other], check=True, cwd=REPOSITORY)
    options = ["--loss=0.2", "--delay=0.2", f"--seed={stage.host}"]
    shell(f"ip link set {own} nomaster")
    stage.wire = subprocess.Popen([*wire, own, inner, *options], cwd=REPOSITORY)
    shell(f"ip link set {other} master br0")


def repair(stage: Stage) -> None:
    if stage.wire:
        stage.wire.kill()
        stage.wire.wait()
    shell(f"ip link del w{stage.host} 2>/dev/null || true; ip link set v{stage.host} master br0 || true")


def move(stage: Stage) -> None:
    """What is left is killed, and the run goes on with its first ranks, the last one on another host."""
    _restart(stage, len(stage.job.hosts))


def start_again(stage: Stage) -> None:
    """What is left is killed, and the run goes on on the same hosts."""
    job = stage.job
    job.kill()
    time.sleep(5)
    job.start()
    job.wait_until_running(beyond=2)


def shrink(stage: Stage) -> None:
    """The run goes on with two hosts fewer, the lost one among them."""
    _restart(stage, len(stage.job.hosts) - 2)


def _restart(stage: Stage, size: int) -> None:
    job = stage.job
    job.kill()
    time.sleep(5)  # a scheduler takes longer
    lost = stage.host
    kept = [number for number in job.hosts if number != lost]
    spare = job.cluster.take(1) if size > len(kept) else []
    if spare:
        job.spent.append(lost)
    else:
        job.spent += [lost, *kept[size:]]
    job.hosts = [*kept[:size], *spare]
    job.start()
    job.wait_until_running(beyond=2)


def drain(stage: Stage) -> None:
    stage.job.terminate()


def reschedule(stage: Stage) -> None:
    """The scheduler ends the ranks in good time and starts the run on other hosts."""
    job = stage.job
    job.terminate()
    time.sleep(5)
    job.spent += job.hosts
    job.hosts = job.cluster.take(len(job.hosts))
    job.start()
    job.wait_until_running(beyond=2)


def finish_and_shrink(stage: Stage) -> None:
    job = stage.job
    job.finish()
    job.spent += job.hosts[2:]
    job.hosts = job.hosts[:2]
    job.start()
    job.wait_until_running(beyond=2)


def roll(stage: Stage) -> None:
    """Each host's agent is ended and started anew, one host after another."""
    for number in stage.job.hosts:
        old = stage.job.agents[number]
        old.send_signal(signal.SIGTERM)
        try:
            old.wait(60)
        except subprocess.TimeoutExpired:
            old.kill()
            old.wait()
        stage.job.start_agent(number)
        time.sleep(20)


def take_away(name: str, seconds: float) -> Callable[[Stage], None]:
    """A server of the hub is away for a while."""

    def act(stage: Stage) -> None:
        stack = stage.job.cluster.stack
        processes.stop([stack.children[name]])
        time.sleep(seconds)
        with contextlib.suppress(
            StackError
        ):  # it reads what it has written first, for longer on a busy machine
            stage.job.cluster.operator.submit(stack.start, name).result()
        url = stack.prometheus_url if name == "prometheus" else stack.alertmanager_url
        if not processes.wait_until(lambda: web.answers(f"{url}/-/ready"), 300):
            raise TimeoutError(f"{name} does not come back")

    return act
