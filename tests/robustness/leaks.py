"""What runs leave behind when they are over, and what comes again when it is taken away."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import time
from pathlib import Path

import psutil

from tests.robustness.check import Size, program
from tests.serving import Node, node, scrape, wait_for
from trainbeacon.blackbox.election import read_note
from trainbeacon.stack.ports import free_port
from trainbeacon.testing import series

MOST_BYTES = 8 << 20


def many_runs(folder: Path, size: Size) -> str:
    """Runs in one process, and as many processes with one each; served by exporters that come and go."""
    boxes, port = folder / "boxes", free_port()
    boxes.mkdir(parents=True)
    left = program("many_runs", boxes, port, size.runs, seconds=600).split()
    assert len(left) == 3, left
    descriptors, threads, children = map(int, left)
    assert descriptors <= 0, f"{descriptors} descriptors are left of {size.runs} runs"
    assert threads <= 0, f"{threads} threads are left"
    assert children <= 0, f"{children} processes are left, or were not waited for"
    for _ in range(size.run_processes):
        program("many_runs", boxes, port, 1)
    wait_for(lambda: not exporters_of(boxes), 120, "end of the exporters")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    files = [path for path in boxes.rglob("*") if path.is_file()]
    held = sum(path.stat().st_size for path in files)
    assert held <= MOST_BYTES, f"{held} bytes in {len(files)} files"
    return (
        f"{size.runs} runs in one process and {size.run_processes} after each other: no descriptor, thread, "
        f"process or port; {held / 2**20:.1f} MiB in {len(files)} files"
    )


def exporters_of(folder: Path) -> list[psutil.Process]:
    """Processes that serve the folder, zombies too."""
    found = []
    for process in psutil.process_iter():
        try:
            if f"--directory={folder}" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def vanished(folder: Path, size: Size) -> str:
    """Folder, box, lock and exporter are taken away one after the other, while a rank trains."""
    with node(folder / "boxes", serve="process", linger_seconds=60.0) as made:
        rank = made.rank()
        wait_for(lambda: is_served(made), 120, "service")
        times = []
        thefts = [the_folder, the_box, the_lock, the_exporter]
        for take in [*thefts, a_stopped_exporter] if size.stop_exporter else thefts:
            begun = time.monotonic()
            take(made.folder)
            wait_for(lambda: is_served(made), 180, f"service without {take.__name__}")
            times.append(f"{take.__name__.replace('_', ' ')} {time.monotonic() - begun:.1f} s")
        assert rank.process.poll() is None
        return f"served again without {', '.join(times)}"


def is_served(made: Node) -> bool:
    """Whether box and lock are there, and the rank is shown as running where it always was."""
    if not [*made.folder.glob("*.box")] or not (made.folder / "exporter.lock").exists():
        return False
    with contextlib.suppress(OSError, http.client.HTTPException):
        url = f"http://127.0.0.1:{made.settings['port']}/metrics"
        return scrape(url).get(series("training_state", run="r", rank=0, state="running")) == 1.0
    return False


def the_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def the_box(folder: Path) -> None:
    for box in folder.glob("*.box"):
        box.unlink()


def the_lock(folder: Path) -> None:
    (folder / "exporter.lock").unlink()


def the_exporter(folder: Path) -> None:
    psutil.Process(exporter_of(folder)).kill()


def a_stopped_exporter(folder: Path) -> None:
    psutil.Process(exporter_of(folder)).suspend()


def exporter_of(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return wait_for(lambda: note.pid if (note := read_note(descriptor)) is not None else 0)
    finally:
        os.close(descriptor)
