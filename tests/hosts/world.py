"""A world of its own for tests with several hosts: everything in it ends with the process that made it.

The kernel takes it down, whatever happens to the tests: network, mounts and processes are those of namespaces
that only this process tree holds. Needs root, `unshare` and `ip`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from tools.stack import CACHE

REPOSITORY = Path(__file__).resolve().parents[2]
#: Set inside.
INSIDE = "TRAINBEACON_TESTS_WORLD"
#: What a world keeps, on a file system in memory of its own.
RUN = Path("/run/world")
NETWORK = "10.203.0"
#: The address of the process that runs the tests.
HUB = f"{NETWORK}.1"


def missing(programs: Sequence[str]) -> str:
    """Why such tests cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return "not root"
    lacking = [name for name in ("unshare", "ip", "mount", *programs) if shutil.which(name) is None]
    return f"no {', '.join(lacking)} here" if lacking else ""


def enter(module: str, *arguments: str) -> None:
    """Run a module in a new world in place of this process; returns only where `unshare` cannot be had."""
    namespaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["unshare", *namespaces, sys.executable, "-m", module, *arguments]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def build(names: Sequence[str], users: dict[str, int]) -> None:
    """Once inside: a bridge for the hosts to come, their names, the users, and what all may read."""
    shell("mount -t tmpfs -o mode=755 world /run; mkdir /run/world /run/lock; chmod 755 /run/world")
    shell("hostname hub; ip link set lo up; ip link add br0 type bridge; ip link set br0 up")
    shell(f"ip addr add {HUB}/24 dev br0")
    lines = ["127.0.0.1 localhost", f"{HUB} hub", *(f"{address(n)} {name}" for n, name in enumerate(names))]
    _over("/etc/hosts", "\n".join(lines) + "\n")
    passwd = [f"{name}:x:{number}:{number}::{RUN}/home/{name}:/bin/bash" for name, number in users.items()]
    groups = [f"{name}:x:{number}:" for name, number in users.items()]
    _over("/etc/passwd", Path("/etc/passwd").read_text() + "\n".join(passwd) + "\n")
    _over("/etc/group", Path("/etc/group").read_text() + "\n".join(groups) + "\n")
    for name, number in users.items():
        home = RUN / "home" / name
        home.mkdir(parents=True)
        os.chown(home, number, number)
    own = [Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("stdlib")), REPOSITORY, CACHE]
    _open_to_all([path for path in own if path.exists()])


def address(number: int) -> str:
    """The address of a host."""
    return f"{NETWORK}.{11 + number}"


class Host:
    """A host: network, name, processes and /dev/shm of its own, files shared with all. Its first process is
    `command`, and all of it ends with that."""

    def __init__(self, number: int, name: str, command: Sequence[str], log: Path, shm: str = "64m") -> None:
        self.name = name
        self.number = number
        self.log = log
        go = RUN / f"go-{name}"
        os.mkfifo(go)
        script = (
            f"hostname {name}; mount -t tmpfs -o mode=1777,size={shm} shm /dev/shm;"
            f" mount -t tmpfs -o mode=1777,size=256m tmp /tmp; read _ < {go}; exec {shlex.join(command)}"
        )
        namespaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                ["unshare", *namespaces, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._first_process()
        self._plug()
        go.write_text("go\n")
        go.unlink()

    def _first_process(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name}: unshare ended: {self.log.read_text()}")
        return int(found[0])

    def _plug(self) -> None:
        link = f"v{self.number}"
        shell(
            f"ip link add {link} type veth peer name eth0 netns {self.pid};"
            f" ip link set {link} master br0; ip link set {link} up"
        )
        self.run(f"ip link set lo up; ip addr add {address(self.number)}/24 dev eth0; ip link set eth0 up")

    def run(self, script: str) -> str:
        """What a script prints that runs on the host as root."""
        command = ["nsenter", "--all", f"--target={self.pid}", "bash", "-euc", script]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def shm(self) -> set[str]:
        """Names in its /dev/shm."""
        return set(os.listdir(f"/proc/{self.pid}/root/dev/shm"))

    def lose(self) -> None:
        """The power goes: every process of it at once."""
        self.process.kill()  # --kill-child takes the namespace along
        self.process.wait()


def _over(path: str, text: str) -> None:
    """Another text in place of a file of the machine's, in this world only."""
    own = RUN / path.replace("/", "_")
    own.write_text(text)
    own.chmod(0o644)
    shell(f"mount --bind {own} {path}")


def _open_to_all(paths: Sequence[Path]) -> None:
    """Let every user read what the tests' Python needs, although it may lie in a home folder."""
    for path in paths:
        closed = [parent for parent in reversed(path.resolve().parents) if not parent.stat().st_mode & 0o001]
        if not closed:
            continue
        top = closed[0]
        kept = RUN / "kept" / str(top).strip("/").replace("/", "_")
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        kept.mkdir()
        shell(f"mount --rbind {top} {kept}; mount -t tmpfs -o mode=755 open {top}")
        for inner in paths:
            if inner.resolve().is_relative_to(top):
                below = kept / inner.resolve().relative_to(top)
                inner.resolve().mkdir(parents=True, exist_ok=True)
                shell(f"mount --rbind {below} {inner.resolve()}")


def shell(script: str) -> None:
    """Run a script in this world, as root."""
    subprocess.run(["bash", "-euc", script], check=True)
