"""Slurm: the batch script around a real rank, the folder of targets, the unit. Slurm is stood in for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.rendering import REPOSITORY, of_kind, render
from tests.serving import PATIENCE, Node, environment, node, request, wait_for
from trainbeacon.cli import build_parser
from trainbeacon.stack.ports import free_port

SLURM = REPOSITORY / "deploy/slurm"
#: Runs what it is given once, as on one node; options end at the first other word. As the real one it kills
#: its step when it is told to end: only scancel delivers a signal.
SRUN = """\
#!/bin/bash
while [[ "${1:-}" == -* ]]; do [[ "$1" == --job-name=* ]] && name="${1#*=}"; shift; done
SLURM_STEP_ID=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 "$@" &
echo $! > "$STEPS/$name"
trap 'kill -KILL $!' TERM
wait $!
status=$?
rm -f "$STEPS/$name"
exit $status
"""
SQUEUE = """\
#!/bin/bash
cd "$STEPS" && for name in *; do echo "$SLURM_JOB_ID.$name $name"; done
"""
SCANCEL = """\
#!/bin/bash
step="${@: -1}"
kill -TERM "$(cat "$STEPS/${step#*.}")"
"""
TORCHRUN = """\
#!/bin/bash
while [[ "${1:-}" == -* ]]; do echo "$1" >> "$TOLD"; shift; done
exec python "$@"
"""
TRAIN = """\
import os, sys, time, trainbeacon
with trainbeacon.start(run="of-slurm") as beacon:
    with beacon.step(samples=1):
        pass
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.05)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """The variables of a job of one node, with the programs of Slurm and torchrun stood in for."""
    programs = {"srun": SRUN, "torchrun": TORCHRUN, "scontrol": "#!/bin/sh\necho node-a\n"}
    programs |= {"squeue": SQUEUE, "scancel": SCANCEL}
    # The program as the package installs it: the port is one that the test may use.
    programs["trainbeacon"] = f'#!/bin/sh\nexec {sys.executable} -m trainbeacon "$@"\n'
    programs["python"] = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "steps").mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (tmp_path / "train.py").write_text(TRAIN)
    inherited = {key: value for key, value in environment().items() if not key.startswith("TORCHELASTIC")}
    return inherited | {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": f"{os.getpid()}",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node-a",
        "TARGETS": str(tmp_path / "targets"),
        "TOLD": str(tmp_path / "told"),
        "STEPS": str(tmp_path / "steps"),
        "TRAINBEACON_HOST": "127.0.0.1",
        "TRAINBEACON_PORT": str(free_port()),
        "TRAINBEACON_GPU": "false",
    }


def test_batch_script_trains_serves_and_cleans_up(site: dict[str, str], tmp_path: Path) -> None:
    """While it trains a target is announced; afterwards folder and target are gone, and the job's status is
    the trainer's, with the end scraped before."""
    done = tmp_path / "done"
    script = [SLURM / "train.sbatch", tmp_path / "train.py", done, "7"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(["bash", *map(str, script)], env=site, stdout=log, stderr=log)
    try:
        targets = tmp_path / "targets"
        (file,) = wait_for(lambda: list(targets.glob("*.json")), what="target")
        (address,) = json.loads(file.read_text())[0]["targets"]
        url = f"http://{address}/metrics"
        wait_for(lambda: _has(url, 'training_state{rank="0",run="of-slurm",state="running"} 1'), what="rank")
        done.touch()
        wait_for(lambda: _has(url, 'training_state{rank="0",run="of-slurm",state="finished"} 1'), what="end")
        wait_for(lambda: not _has(url, "training_state") or job.poll() is not None, what="end of the agent")
        assert 7 == job.wait(PATIENCE), (tmp_path / "log").read_text()
        assert [] == list(targets.glob("*.json"))
        assert not Path(f"/dev/shm/trainbeacon-job-{site['SLURM_JOB_ID']}").exists()
        told = (tmp_path / "told").read_text().split()
        assert f"--rdzv-endpoint=node-a:{29500 + int(site['SLURM_JOB_ID']) % 1000}" in told
        assert f"--rdzv-id={site['SLURM_JOB_ID']}" in told
    finally:
        job.kill()
        job.wait()
        shutil.rmtree(f"/dev/shm/trainbeacon-job-{site['SLURM_JOB_ID']}", ignore_errors=True)


def _has(url: str, text: str) -> bool:
    try:
        return text in request(url).text
    except OSError:
        return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "boxes") as made:
        yield made


def test_targets_that_nobody_serves_are_removed(served: Node, tmp_path: Path) -> None:
    """A dead exporter's file goes, a live one's stays, and files of others are not touched."""
    folder = tmp_path / "targets"
    folder.mkdir()
    served.agent(f"--sd-dir={folder}", "--advertise=127.0.0.1")
    (alive,) = folder.glob("*.json")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        dead = folder / "trainbeacon-lost-9797.json"
        dead.write_text(json.dumps([{"targets": [f"127.0.0.1:{closed.getsockname()[1]}"], "labels": {}}]))
        foreign = folder / "node-exporter.json"
        foreign.write_text(dead.read_text())
        damaged = folder / "trainbeacon-half-9797.json"
        damaged.write_text('[{"targets": ["127')
        linked = folder / "trainbeacon-linked-9797.json"
        linked.symlink_to(dead)
        piped = folder / "trainbeacon-piped-9797.json"
        os.mkfifo(piped)
        command = [sys.executable, "-I", str(SLURM / "clean-targets.py"), str(folder), "--minutes=0"]
        others = subprocess.run([*command, "--user=54321"], capture_output=True, text=True, check=True)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ("", f"removed {dead}\n") == (others.stdout, done.stdout)
    assert {alive, foreign, damaged, linked, piped} == set(folder.iterdir())


def test_on_the_node_only_what_is_refused_is_removed(tmp_path: Path) -> None:
    """From an epilog: files of this very host, at once, and not that of a busy exporter."""
    here = socket.gethostname()
    with socket.socket() as closed, socket.socket() as busy:
        closed.bind(("127.0.0.1", 0))
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        waiting = [
            _knock(busy.getsockname()) for _ in range(3)
        ]  # nobody accepts them: the next gets no answer
        files = {
            f"trainbeacon-{here}-1.json": closed.getsockname(),
            f"trainbeacon-{here}-2.json": busy.getsockname(),
            f"trainbeacon-{here}-2-3.json": closed.getsockname(),  # another host, whose name begins so
            "trainbeacon-other-1.json": closed.getsockname(),
        }
        for name, (host, port) in files.items():
            (tmp_path / name).write_text(json.dumps([{"targets": [f"{host}:{port}"], "labels": {}}]))
        command = [sys.executable, "-I", str(SLURM / "clean-targets.py"), str(tmp_path), "--here"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        for one in waiting:
            one.close()
    assert f"removed {tmp_path}/trainbeacon-{here}-1.json\n" == done.stdout


def _knock(address: tuple[str, int]) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(address)
    return client


def test_young_targets_are_let_be(tmp_path: Path) -> None:
    """An exporter that starts just now may not listen yet."""
    young = tmp_path / "trainbeacon-a-9797.json"
    young.write_text(json.dumps([{"targets": [f"127.0.0.1:{free_port()}"], "labels": {}}]))
    command = [sys.executable, "-I", str(SLURM / "clean-targets.py"), str(tmp_path)]
    assert "" == subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert young.exists()


#: What squeue prints and its status, what ps does, and what is still there afterwards.
EPILOGS = {
    "last job": ("7", 0, "exit 1", set()),
    "last job, which Slurm has forgotten": ("", 0, "exit 1", set()),
    "a process that is dead": ("7", 0, "echo Z", set()),
    "squeue fails": ("", 1, "exit 1", {"user"}),
    "squeue fails and prints": ("7", 1, "exit 1", {"user"}),
    "another job": ("7\n17", 0, "exit 1", {"user"}),
    "a job whose number begins alike": ("7\n71", 0, "exit 1", {"user"}),
    "processes": ("7", 0, "echo Z; echo Sl", {"user"}),
    "ps fails": ("7", 0, "exit 3", {"user"}),
}


@pytest.mark.parametrize("case", EPILOGS)
def test_epilog_removes_only_what_belongs_to_the_job(case: str, tmp_path: Path) -> None:
    """The job's folder goes; the user's own only with their last job, and not where that cannot be known."""
    said, status, processes, left = EPILOGS[case]
    for name, text in {"squeue": f"printf '{said}'; exit {status}", "ps": processes}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = f"""
        set -e
        mount -t tmpfs tmpfs /dev/shm
        mkdir /dev/shm/trainbeacon-job-7 /dev/shm/trainbeacon-job-8 /dev/shm/trainbeacon-0 /dev/shm/elsewhere
        touch /dev/shm/elsewhere/kept
        ln -s /dev/shm/elsewhere /dev/shm/trainbeacon-job-9
        bash {SLURM}/epilog.sh
        SLURM_JOB_ID=9 bash {SLURM}/epilog.sh
        ls /dev/shm /dev/shm/elsewhere
    """
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin", "SLURM_JOB_ID": "7", "SLURM_JOB_UID": "0"}
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", "--mount", *as_root, "sh", "-c", script]
    done = subprocess.run(
        command, env={**env, "TARGETS": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (0, "") == (done.returncode, done.stderr)
    names = {"trainbeacon-job-7": "job", "trainbeacon-job-8": "other job", "trainbeacon-0": "user"}
    there = {names[line] for line in done.stdout.split() if line in names}
    assert {"other job"} | left == there
    assert "kept" in done.stdout.split()


def test_epilog_leaves_what_another_user_has_made(tmp_path: Path) -> None:
    """A folder under the job's name that is not the job's user's is nobody's to remove."""
    script = f"""
        mount -t tmpfs tmpfs /dev/shm; mkdir /dev/shm/trainbeacon-job-7
        bash {SLURM}/epilog.sh; ls /dev/shm
    """
    env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "SLURM_JOB_ID": "7", "SLURM_JOB_UID": "54321"}
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", "--mount", *as_root, "sh", "-c", script]
    done = subprocess.run(
        command, env={**env, "TARGETS": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (0, "trainbeacon-job-7\n") == (done.returncode, done.stdout), done.stderr


def test_prometheus_takes_its_part(promtool: str, helm: str, tmp_path: Path) -> None:
    """The configuration is valid, and its limit is the chart's."""
    shutil.copytree(REPOSITORY / "prometheus/rules", tmp_path / "rules")
    shutil.copy(SLURM / "prometheus.yml", tmp_path)
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (monitor,) = of_kind(render(helm), "PodMonitor")
    assert f"sample_limit: {monitor['spec']['sampleLimit']}\n" in (SLURM / "prometheus.yml").read_text()


def test_unit_starts_a_command_that_exists() -> None:
    """The unit's command line is one that the agent takes, on the folder that it makes first."""
    lines = dict(
        line.split("=", 1)
        for line in (SLURM / "trainbeacon-agent.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    program, *arguments = lines["ExecStart"].split()
    assert program.endswith("/trainbeacon")
    assert build_parser().parse_args(arguments).directory == lines["ExecStartPre"].split()[-1]
    assert int(lines["TimeoutStopSec"]) > 30  # the agent's patience on SIGTERM


def test_shell_scripts_are_sound() -> None:
    """bash finds no fault with the scripts, and those that are run can be."""
    for name in ("train.sbatch", "epilog.sh"):
        done = subprocess.run(["bash", "-n", SLURM / name], capture_output=True, text=True)
        assert (0, "") == (done.returncode, done.stderr)
    for name in ("epilog.sh", "clean-targets.py"):
        assert (SLURM / name).stat().st_mode & stat.S_IXUSR
