"""Boxes of real processes: life and death, descriptors closed behind their back, forks."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.blackbox.boxes import boxes_in, identity, only_box, process, tell, wait_for
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.blackbox.writer import Writer

RECORDING = """
writer = create(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else LONG_AGO)
size = writer.declare("training_world_size")
beat = writer.declare("training_heartbeat_timestamp_seconds")
loss = writer.declare("training_loss", ("train",))
writer.slots[size] = 1.0
ready()
"""

CLOSED_BEHIND_ITS_BACK = (
    RECORDING
    + """
writer.slots[beat] = time.time()
os.closerange(3, 256)
users = [os.open(sys.argv[0] if os.path.exists(sys.argv[0]) else "/dev/zero", os.O_RDONLY) for _ in range(12)]
sys.stdin.readline()
print("lost", flush=True)
sys.stdin.readline()
writer.hold_lock()
writer.slots[size] = 2.0
print("held", flush=True)
sys.stdin.readline()
writer.end("finished")
writer.close()
del writer
import gc; gc.collect()
print(sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in users), flush=True)
sys.stdin.readline()
"""
)


def test_descriptors_closed_by_other_code_are_got_over(tmp_path: Path) -> None:
    """A process that closes every descriptor is alive in the grace, held again a second later, and
    files that the user opened under the old numbers stay open when the run ends."""
    with process(CLOSED_BEHIND_ITS_BACK, tmp_path) as child:
        assert tell(child) == "lost"
        box = only_box(tmp_path)
        assert (box.state, box.alive) == ("running", True)
        with boxes_in(tmp_path) as boxes:
            assert not _lock_is_held(boxes)
            assert tell(child) == "held"
            assert _lock_is_held(boxes)
        box = only_box(tmp_path)
        assert (box.state, box.alive, box.number("training_world_size")) == ("running", True, 2.0)
        assert tell(child) == "12"
        assert only_box(tmp_path).state == "finished"


OPENED_BY_OTHERS = (
    RECORDING
    + """
open(writer.path, "rb").close()
sys.stdin.readline()
print("lost", flush=True)
sys.stdin.readline()
writer.hold_lock()
print("held", flush=True)
sys.stdin.readline()
"""
)


def test_a_lock_lost_by_opening_the_file_is_taken_again(tmp_path: Path) -> None:
    """Code of the same process that opens and closes the box frees its lock; the next turn takes it again."""
    with process(OPENED_BY_OTHERS, tmp_path) as child, boxes_in(tmp_path) as boxes:
        assert tell(child) == "lost"
        assert not _lock_is_held(boxes)
        assert tell(child) == "held"
        assert _lock_is_held(boxes)


def _lock_is_held(boxes: BoxDirectory) -> bool:
    """By the lock alone: these boxes began long ago and are dead at once without it, but for a heartbeat."""
    import fcntl

    from trainbeacon.blackbox import format as layout

    [name] = [name for name in os.listdir(boxes.descriptor) if name.endswith(".box")]
    descriptor = os.open(name, os.O_RDONLY, dir_fd=boxes.descriptor)
    try:
        return not layout.lock_is_free(fcntl.fcntl(descriptor, fcntl.F_GETLK, layout.lock_query()))
    finally:
        os.close(descriptor)


def by_the_folder(writer: Writer) -> None:
    shutil.rmtree(Path(str(writer.path)).parent)


def by_the_file(writer: Writer) -> None:
    Path(str(writer.path)).unlink()


def by_another_file(writer: Writer) -> None:
    Path(str(writer.path)).unlink()
    Path(str(writer.path)).write_text("another")


def with_its_descriptor(writer: Writer) -> None:
    os.close(writer._descriptor)
    Path(str(writer.path)).unlink()


@pytest.mark.parametrize("gone", [by_the_folder, by_the_file, by_another_file, with_its_descriptor])
def test_a_box_that_was_removed_is_made_again(gone: Callable[[Writer], None], tmp_path: Path) -> None:
    """With all that it held, in its old place, locked; and what is recorded later is seen too."""
    folder = tmp_path / "boxes"
    writer = Writer.create(str(folder), identity(start=5.0))
    size, loss = writer.declare("training_world_size"), writer.declare("training_loss", ["train"])
    writer.slots[size] = 3.0
    writer.step[loss] = 0.5
    writer.commit()
    writer.add_to_ring(7, 8.0, 9.0, 0.5, 1.0)
    descriptors = len(os.listdir("/proc/self/fd"))
    path = writer.path
    gone(writer)
    writer.hold_lock()
    assert path == writer.path
    writer.slots[size] = 4.0
    writer.step[loss] = 0.25
    writer.commit()
    box = only_box(folder, ring=True)
    assert ("running", True, 5.0) == (box.state, box.held, box.identity.start)
    assert (4.0, 0.25) == (box.number("training_world_size"), box.number("training_loss", "train"))
    assert [7] == [entry.step for entry in box.ring]
    abandoned = gone is with_its_descriptor  # its mapping stays, with a descriptor that only Python knows
    assert descriptors + abandoned == len(os.listdir("/proc/self/fd"))
    writer.end("finished")
    writer.close()
    assert "finished" == only_box(folder).state


def test_end_of_a_run_beside_the_background_thread(tmp_path: Path) -> None:
    """`close` and `hold_lock` at once leave nothing open and raise nothing, however they meet."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        writer = Writer.create(str(tmp_path), identity())
        Path(str(writer.path)).unlink()
        raised: list[BaseException] = []

        def hold(writer: Writer = writer, raised: list[BaseException] = raised) -> None:
            try:
                writer.hold_lock()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=hold)
        thread.start()
        writer.close()
        thread.join()
        assert [] == raised
    assert before == len(os.listdir("/proc/self/fd"))


def test_the_life_of_a_process(tmp_path: Path) -> None:
    """A rank runs while its process lives, and has crashed once it is gone and its last sign is old."""
    with process(RECORDING + "sys.stdin.readline()", tmp_path) as child:
        box = only_box(tmp_path)
        assert (box.state, box.alive, box.identity.pid) == ("running", True, child.pid)
        child.kill()
        child.wait()
        box = only_box(tmp_path)
        assert (box.state, box.alive, box.number("training_world_size")) == ("crashed", False, 1.0)


def test_a_process_killed_just_now_gets_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free lock with a fresh heartbeat may be an accident: three seconds later it is a crash."""
    code = RECORDING + "writer.slots[beat] = time.time(); print('beat', flush=True); sys.stdin.readline()"
    with process(code, tmp_path) as child:
        assert child.stdout
        child.stdout.readline()
        child.kill()
        child.wait()
    box = only_box(tmp_path)
    assert (box.state, box.alive) == ("running", True)
    sign = box.last_sign
    monkeypatch.setattr("trainbeacon.blackbox.reader.time.time", lambda: sign + 3.1)
    box = only_box(tmp_path)
    assert (box.state, box.alive) == ("crashed", False)


FORKING = (
    RECORDING
    + """
pipe = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        writer.slots[size] = 77.0
        writer.step[loss] = 77.0
        writer.commit()
        writer.end("finished")
        writer.hold_lock()
        writer.add_to_ring(77, 77, 77, 77, 77)
    writer.slots[size] = 66.0
    writer.step[loss] = 66.0
    writer.commit()
    writer.info("training_failure_info", ["Child", "other"])
    os.write(pipe[1], f"{os.getpid()} ".encode())
    time.sleep(60)
    os._exit(0)
words = b""
while words.count(b" ") < 2:
    words += os.read(pipe[0], 100)
print(words.decode(), flush=True)
sys.stdin.readline()
"""
)


def test_forked_children_neither_keep_the_box_alive_nor_write_it(tmp_path: Path) -> None:
    """Loader workers, and their children, that outlive a killed rank do not hold its life; nothing that
    they record reaches the box."""
    with process(FORKING, tmp_path) as child:
        assert child.stdout
        orphans = [int(pid) for pid in child.stdout.readline().split()]
        try:
            box = only_box(tmp_path, ring=True)
            assert (box.state, box.number("training_world_size")) == ("running", 1.0)
            child.kill()
            child.wait()
            for pid in orphans:
                os.kill(pid, 0)  # alive
            box = only_box(tmp_path, ring=True)
            assert (box.state, box.alive) == ("crashed", False)
            assert (box.number("training_world_size"), box.number("training_loss", "train")) == (1.0, None)
            assert (box.infos, box.ring) == ((), ())
        finally:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)


BEACON_FORKS = """
import trainbeacon
beacon = trainbeacon.start(run="demo", directory=sys.argv[1], serve="off")
beacon.log(loss=1.0, quality=1.0)
child = os.fork()
if child == 0:
    for number in range(100):
        with beacon.step(samples=7):
            beacon.log(loss=50.0, quality=50.0, gradient_norm=50.0)
    with beacon.evaluate():
        beacon.log(loss=50.0)
    beacon.finish()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
ready()
sys.stdin.readline()
"""


def test_what_a_forked_child_logs_is_not_recorded(tmp_path: Path) -> None:
    """The beacon of a loader worker does nothing: neither numbers nor the end of the run are its own."""
    with process(BEACON_FORKS, tmp_path):
        box = only_box(tmp_path, ring=True)
        assert (box.state, box.alive, box.ring) == ("running", True, ())
        assert box.number("training_loss", "train") == 1.0
        assert box.number("training_metric", "quality", "train") == 1.0
        assert box.number("training_steps_total") == 0.0
        assert box.number("training_gradient_norm") is None


KILLED_IN_COMMIT = (
    RECORDING
    + """
step = writer.declare("training_step")
def record(number):
    writer.step[loss] = writer.step[step] = number
    writer.add_to_ring(number, number, 0.5, number, layout.UNSET)
for number in range(1, 20):
    record(float(number))
    writer.commit()
class Dying:
    "Takes half of the values, then the process is gone."
    def __init__(self, values):
        self.values = values
    def __setitem__(self, key, new):
        half = len(new) // 2
        self.values[:half] = new[:half]
        os.kill(os.getpid(), signal.SIGKILL)
writer._blocks = [(copy, Dying(values)) for copy, values in writer._blocks]
record(20.0)
print("now", flush=True)
sys.stdin.readline()
writer.commit()
"""
)


def test_a_writer_killed_between_the_halves_of_a_block(tmp_path: Path) -> None:
    """The last whole block of a rank that died in a commit is served, with its state and last step."""
    with process(KILLED_IN_COMMIT, tmp_path) as child:
        assert tell(child, "") == "now"
        assert tell(child) == ""
        assert child.wait() == -signal.SIGKILL
        box = only_box(tmp_path, ring=True)
        assert box.state == "crashed"
        assert (box.number("training_step"), box.number("training_loss", "train")) == (19.0, 19.0)
        assert box.ring[-1].step in (19, 20)


def test_processes_killed_at_any_moment_leave_a_readable_box(tmp_path: Path) -> None:
    """Ranks killed at random moments of recording are read as crashed, with values of one step."""
    code = RECORDING + (
        "step = writer.declare('training_step')\n"
        "number = 0.0\n"
        "while True:\n"
        "    number += 1.0\n"
        "    writer.step[loss] = writer.step[step] = number\n"
        "    writer.commit()\n"
        "    writer.add_to_ring(number, number, number, number, number)\n"
    )
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        with process(code, folder) as child:
            wait_for(lambda folder=folder: only_box(folder).number("training_step") is not None)
            child.kill()
            child.wait()
        box = only_box(folder, ring=True)
        assert box.state == "crashed"
        assert box.number("training_step") == box.number("training_loss", "train")
        assert box.ring


def test_a_second_reader_and_scans_do_not_disturb_the_writer(tmp_path: Path) -> None:
    """Readers in other processes leave the writer's lock alone."""
    with process(RECORDING + "sys.stdin.readline()", tmp_path):
        for _ in range(3):
            assert only_box(tmp_path).alive


# A reader in the writer's own process


OWN_READER = """
from trainbeacon.blackbox.reader import BoxDirectory
folder = os.open(sys.argv[1], os.O_RDONLY)
boxes = BoxDirectory(folder)
rename = os.rename
def rename_and_scan(*arguments, **keywords):
    rename(*arguments, **keywords)
    assert len(boxes.scan()) == 1
os.rename = rename_and_scan  # the scan of another thread may come at this very moment
writer = create(sys.argv[1])
writer.slots[writer.declare("training_world_size")] = 4.0
[box] = boxes.scan(ring=True)
ready()
print(box.state, box.alive, box.number("training_world_size"), flush=True)
sys.stdin.readline()
"""


def test_a_reader_in_the_same_process_does_not_free_the_lock(tmp_path: Path) -> None:
    """Thread mode reads its own box through the mapping, from the moment that it can be seen."""
    with process(OWN_READER, tmp_path) as child:
        assert child.stdout
        assert child.stdout.readline().strip() == "running True 4.0"
        assert only_box(tmp_path).alive


def test_creation_is_never_seen_half_done(tmp_path: Path) -> None:
    """A reader that scans while boxes are made and removed never meets an invalid one."""
    code = """
ready()
while True:
    writer = create(sys.argv[1])
    writer.close()
    os.unlink(os.path.join(sys.argv[1], os.listdir(sys.argv[1])[0]))
"""
    with process(code, tmp_path), boxes_in(tmp_path) as boxes:
        seen = 0
        while seen < 100:
            seen += len(boxes.scan(ring=True))
        assert boxes.invalid_total == 0


def test_a_failed_creation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a box cannot be had, its temporary file is gone and no descriptor stays open."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    for name in ("posix_fallocate", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space left"):
                Writer.create(str(tmp_path), identity())
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before
