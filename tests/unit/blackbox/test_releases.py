"""When a process ended that reported no state: real processes, killed at a moment that is known."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import node, wait_for
from tests.unit.blackbox.boxes import boxes_in, process
from trainbeacon.blackbox.reader import Box, BoxDirectory

WRITES = """
writer = create(sys.argv[1])
ready()
for line in sys.stdin:
    if line == "lose\\n":  # what other code does that opens and closes the file
        os.close(os.open(writer.path, os.O_RDONLY))
    elif line == "hold\\n":
        writer.hold_lock()
    print(line, end="", flush=True)
"""


@contextlib.contextmanager
def watched(path: Path) -> Iterator[BoxDirectory]:
    """A directory whose ends are looked for, and which a first scan knows."""
    with boxes_in(path) as boxes:
        boxes.scan()
        boxes.releases.start()
        try:
            yield boxes
        finally:
            boxes.releases.stop()


def crashed(boxes: BoxDirectory) -> Box | None:
    [box] = boxes.scan()
    return box if box.state == "crashed" and box.released is not None else None


def test_time_of_a_kill_is_known_to_a_tenth_of_a_second(tmp_path: Path) -> None:
    """The moment of SIGKILL is noted, though its box has had no sign of life since long before."""
    with process(WRITES, tmp_path) as child, watched(tmp_path) as boxes:
        time.sleep(0.2)  # some looks that find it alive
        os.kill(child.pid, signal.SIGKILL)
        killed = time.time()
        box = wait_for(lambda: crashed(boxes), what="crash")
    assert killed == pytest.approx(box.end, abs=0.1)


def test_lock_that_is_taken_again_was_no_end(tmp_path: Path) -> None:
    """A process that loses its lock to other code and takes it again has not ended; later it has."""
    with process(WRITES, tmp_path) as child, watched(tmp_path) as boxes:

        def ask(word: str) -> None:
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{word}\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{word}\n"

        ask("lose")
        lost = wait_for(lambda: crashed(boxes), what="loss").end
        ask("hold")
        [box] = boxes.scan()
        assert ("running", None) == (box.state, box.end)
        child.kill()
        assert lost is not None
        assert lost < (wait_for(lambda: crashed(boxes), what="crash").end or 0.0)


def test_end_that_nobody_saw_is_the_last_sign_of_life(tmp_path: Path) -> None:
    """An exporter that starts after the crash knows no better than the last heartbeat."""
    with node(tmp_path / "boxes", linger_seconds=60) as job:
        witness, victim = job.rank(0, 2), job.rank(1, 2)
        job.url()
        before = time.time()
        victim.kill()
        wait_for(lambda: job.state(1) == "crashed", what="crash")
        assert before == pytest.approx(job.value("training_end_timestamp_seconds", 1), abs=0.2)
        os.kill(job.exporter_pid, signal.SIGKILL)
        wait_for(lambda: job.state(1) == "crashed", what="new exporter")
        heartbeat = job.value("training_heartbeat_timestamp_seconds", 1)
        assert heartbeat == job.value("training_end_timestamp_seconds", 1)
        assert job.value("training_end_timestamp_seconds", 0) is None
        assert 0 == witness.end()
        ended = time.time()
        assert ended == pytest.approx(job.value("training_end_timestamp_seconds", 0), abs=1.0)


def test_a_box_of_this_process_is_never_opened(tmp_path: Path) -> None:
    """`serve="thread"`: to look at its own box would free the lock of the very rank that serves."""
    code = """
from trainbeacon.blackbox.reader import BoxDirectory
boxes = BoxDirectory(os.open(sys.argv[1], os.O_RDONLY))
writer = create(sys.argv[1])
boxes.scan()
boxes.releases.poll()
boxes.releases.watch(boxes._files, boxes._files)  # even if it were told to
boxes.releases.poll()
ready()
sys.stdin.readline()
"""
    with process(code, tmp_path), boxes_in(tmp_path) as boxes:
        [box] = boxes.scan()
        assert box.held
