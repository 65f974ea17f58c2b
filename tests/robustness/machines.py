"""Machines that lack something: a writable disk, shared memory, a steady clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.robustness.check import Size, in_namespace
from tests.serving import REPOSITORY, environment, node, wait_for
from trainbeacon import catalogue
from trainbeacon.testing import Series, series

#: /dev is made anew with what a program cannot do without, and no shm in it.
NO_SHM = """
mkdir -p {folder}/dev
mount -t tmpfs -o mode=755 tmpfs {folder}/dev
for name in null zero random urandom; do
  touch {folder}/dev/$name
  mount --bind /dev/$name {folder}/dev/$name
done
mount --rbind {folder}/dev /dev
"""
SMALL_SHM = "mount -t tmpfs -o size={size} tmpfs /dev/shm"
DAY = 86_400.0
JUMPS = (DAY, -DAY, 0.0)


def read_only_root(folder: Path, size: Size) -> str:
    """The root and the temporary folder cannot be written; shared memory can. And then nothing can."""
    folder.mkdir(parents=True)
    remount = "mount --bind / / && mount -o remount,bind,ro / && cd /"
    shm = "mount -t tmpfs tmpfs /dev/shm"
    served = in_namespace(f"{remount}\n{shm}", "train", "process").split()
    assert served == ["boxed", "served=500", "/dev/shm"], served
    nowhere = in_namespace(f"{remount}\n{shm} && mount -o remount,ro /dev/shm", "train", "off").split()
    assert nowhere == ["unboxed", "steps=500", "warnings=1"], nowhere
    return "recorded in shared memory and served; with no writable place at all, trained with one warning"


def no_shared_memory(folder: Path, size: Size) -> str:
    """Without /dev/shm the boxes lie in the temporary folder."""
    folder.mkdir(parents=True)
    said = in_namespace(NO_SHM.format(folder=folder), "train", "process", TMPDIR=str(folder)).split()
    assert said[:2] == ["boxed", "served=500"], said
    assert said[2] == str(folder), said
    return "recorded in the temporary folder and served"


def full_shared_memory(folder: Path, size: Size) -> str:
    """/dev/shm has no room for one box."""
    said = in_namespace(SMALL_SHM.format(size="64k"), "train", "off").split()
    assert said[:2] == ["unboxed", "steps=500"], said
    assert "warnings=1" in said
    return "trained to the end with one warning, not served"


def small_shared_memory(folder: Path, size: Size) -> str:
    """64 MiB of /dev/shm, as a container has by default, and the loaders want it too: 16 ranks."""
    said = in_namespace(SMALL_SHM.format(size="64m"), "many_ranks", 16).split()
    assert said[0] == "16", said
    return f"16 ranks recorded, in {int(said[1]) / 2**20:.1f} MiB of 64"


def clock_jumps(folder: Path, size: Size) -> str:
    """The node's clock leaps a day ahead, two days back, and right again, for rank and exporter alike."""
    folder.mkdir(parents=True)
    offset = folder / "offset"
    offset.write_text("0")
    with node(folder / "boxes", serve="off") as made, _ShiftedRank(made.folder, offset) as trainer:
        begun = time.monotonic()
        exporter = _exporter(made.folder, offset, made.settings["port"])
        try:
            last = wait_for(lambda: _counters(made.scrape()), what="counters")
            for jump in JUMPS:
                offset.write_text(str(jump))
                for _ in range(3):
                    now = _counters(made.scrape())
                    assert {} == {
                        key: (last[key], now.get(key)) for key in last if now.get(key, -1) < last[key]
                    }
                    last = now
                    assert made.state(run="clock") == "running"
                    time.sleep(0.4)  # so that both have seen the jump and gone on
            elapsed = time.monotonic() - begun
            phases = sum(value for key, value in last.items() if key.name == "training_phase_seconds_total")
            assert 0.5 * elapsed < phases < elapsed + 15.0, (phases, elapsed)
            assert (
                last[series("training_phase_seconds_total", run="clock", rank=0, phase="forward")] < elapsed
            )
        finally:
            exporter.kill()
            exporter.wait()
        assert trainer.poll() is None
    return (
        f"no counter fell, {len(last)} watched; phase totals {phases:.0f} s in all after {elapsed:.0f} s; "
        "the rank was running throughout"
    )


class _ShiftedRank:
    """A rank that trains while its clock is shifted by what a file says."""

    def __init__(self, folder: Path, offset: Path) -> None:
        self.command = [
            sys.executable,
            "-m",
            "tests.robustness.programs.shifted",
            str(offset),
            "train",
            str(folder),
        ]

    def __enter__(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command, env=environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


def _exporter(folder: Path, offset: Path, port: int) -> subprocess.Popen[bytes]:
    arguments = ["agent", f"--directory={folder}", "--host=127.0.0.1", f"--port={port}", "--no-gpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.robustness.programs.shifted", str(offset), *arguments],
        env=environment(),
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )


_COUNTERS = {metric.name for metric in catalogue.ALL if metric.type == "counter"}


def _counters(served: dict[Series, float]) -> dict[Series, float]:
    return {
        key: value for key, value in served.items() if key.name in _COUNTERS and key.label("run") == "clock"
    }
