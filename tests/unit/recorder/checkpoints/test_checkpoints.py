"""Checkpoints: how long, how many, how many failed; whoever saves them, and in whatever thread."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import trainbeacon
from tests.serving import wait_for
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.recorder.checkpoints import disk_space as diskspace
from trainbeacon.recorder.core.file_worker import FileWorker

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
Number = Callable[..., "float | None"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def model() -> torch.nn.Module:
    return torch.nn.Linear(64, 64)


@pytest.fixture
def beacon(folder: Path, model: torch.nn.Module) -> Iterator[trainbeacon.Beacon]:
    """A beacon that watches a model, one step into its run."""
    boxes = folder / "boxes"
    boxes.mkdir()
    with trainbeacon.start(run="r", serve="off", directory=str(boxes)) as made:
        made.watch(model)
        with made.step():
            pass
        yield made


@pytest.fixture
def number(folder: Path, beacon: trainbeacon.Beacon) -> Number:
    """Reads a number of the box."""

    def read(metric: str, *labels: str) -> float | None:
        descriptor = open_directory(str(folder / "boxes"))
        try:
            (box,) = BoxDirectory(descriptor).scan()
            return box.number(metric, *labels)
        finally:
            os.close(descriptor)

    return read


def counts(number: Number) -> tuple[float | None, float | None, float | None]:
    """Begun, failed, and still being written."""
    return (
        number("training_checkpoints_total"),
        number("training_checkpoint_failures_total"),
        number("training_checkpoints_pending"),
    )


# What the script says


def test_background_writing_counts_until_its_future_is_done(
    beacon: trainbeacon.Beacon, number: Number, folder: Path
) -> None:
    """Training goes on at once; the checkpoint is pending, and is good when its future says so."""
    future: Future[None] = Future()
    with beacon.checkpoint(folder / "last.pt") as saving:
        (folder / "last.pt").write_bytes(bytes(100))
        saving.finishes_with(future)
    assert (1.0, 0.0, 1.0) == counts(number)
    assert number("training_checkpoint_step") is None
    blocked = number("training_checkpoint_seconds_total")
    with beacon.step():
        pass
    threading.Timer(0.2, future.set_result, [None]).start()
    wait_for(lambda: counts(number) == (1.0, 0.0, 0.0), what="end of the writing")
    assert 1.0 == number("training_checkpoint_step")  # the step at its begin, not at its end
    assert blocked == number("training_checkpoint_seconds_total")
    written = number("training_checkpoint_write_seconds_total")
    assert written is not None
    assert blocked is not None
    assert 0.2 <= written < 5.0
    assert blocked < 0.2
    wait_for(lambda: number("training_checkpoint_bytes") == 100.0, what="size")


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_failure_in_the_background_is_counted(end: str, beacon: trainbeacon.Beacon, number: Number) -> None:
    """An upload that fails after training went on is no good checkpoint, though nothing raised."""
    future: Future[None] = Future()
    with beacon.checkpoint() as saving:
        saving.finishes_with(future)
    if end == "fails":
        future.set_exception(OSError("storage is gone"))
    else:
        future.cancel()
        future.set_running_or_notify_cancel()
    assert (1.0, 1.0, 0.0) == counts(number)
    assert number("training_checkpoint_last_success_timestamp_seconds") is None


def test_exception_in_the_block_outweighs_the_future(beacon: trainbeacon.Beacon, number: Number) -> None:
    """A checkpoint fails once, even if its half-begun writing ends well later."""
    future: Future[None] = Future()

    def save() -> None:
        with beacon.checkpoint() as saving:
            saving.finishes_with(future)
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        save()
    future.set_result(None)
    assert (1.0, 1.0, 0.0) == counts(number)


def test_checkpoints_that_overlap_keep_the_newest_step(beacon: trainbeacon.Beacon, number: Number) -> None:
    """Where an older one ends last, the newer one is still what a restart would load."""
    futures: list[Future[None]] = [Future(), Future()]
    for future in futures:
        with beacon.checkpoint() as saving:
            saving.finishes_with(future)
        with beacon.step():
            pass
    assert (2.0, 0.0, 2.0) == counts(number)
    for future in reversed(futures):
        future.set_result(None)
    assert (2.0, 0.0, 0.0) == counts(number)
    assert 2.0 == number("training_checkpoint_step")


def test_what_is_no_future_is_told_at_the_desk(folder: Path) -> None:
    """A wrong argument raises before the first step, and is counted as an error of the script's."""
    with (
        trainbeacon.start(run="r", serve="off", directory=str(folder)) as beacon,
        beacon.checkpoint() as saving,
        pytest.raises(TypeError, match="future"),
    ):
        saving.finishes_with("soon")


def test_torch_future_is_one(beacon: trainbeacon.Beacon, number: Number) -> None:
    """`torch.futures.Future` tells its exception in a way of its own."""
    for error in (None, ValueError("bad shard")):
        future: torch.futures.Future[Any] = torch.futures.Future()
        with beacon.checkpoint() as saving:
            saving.finishes_with(future)
        if error is None:
            future.set_result(1)
        else:
            future.set_exception(error)
    assert (2.0, 1.0, 0.0) == counts(number)


# What torch saves


def test_torch_save_to_a_file_is_a_checkpoint(
    beacon: trainbeacon.Beacon, number: Number, model: torch.nn.Module, folder: Path
) -> None:
    """Without a word of the script: to a path or an open file, with its size; what it saves is untouched."""
    torch.save(model.state_dict(), folder / "a.pt")
    with beacon.step():
        pass
    with open(folder / "b.pt", "wb") as file:
        torch.save(model.state_dict(), file)
    assert (2.0, 0.0, 0.0) == counts(number)
    assert 2.0 == number("training_checkpoint_step")
    for name in ("a.pt", "b.pt"):
        loaded = torch.load(folder / name)
        assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    size = float(os.path.getsize(folder / "b.pt"))
    wait_for(lambda: number("training_checkpoint_bytes") == size, what="size")
    phase = number("training_phase_seconds_total", "checkpoint")
    assert phase is not None
    assert phase > 0.0


def test_files_saved_after_one_step_are_one_checkpoint(
    beacon: trainbeacon.Beacon, number: Number, folder: Path
) -> None:
    """Model, optimizer and random state in three files count once, with the bytes of all."""
    for name in ("model", "optimizer", "random"):
        torch.save(torch.zeros(100), folder / name)
    assert (1.0, 0.0, 0.0) == counts(number)
    total = sum(os.path.getsize(folder / name) for name in ("model", "optimizer", "random"))
    wait_for(lambda: number("training_checkpoint_bytes") == float(total), what="size")


def test_save_to_memory_or_from_another_thread_is_none(
    beacon: trainbeacon.Beacon, number: Number, folder: Path
) -> None:
    """Copies for a broadcast and what a logger's thread writes are no checkpoints of the training."""
    torch.save(torch.zeros(3), io.BytesIO())
    thread = threading.Thread(target=torch.save, args=(torch.zeros(3), folder / "other.pt"))
    thread.start()
    thread.join()
    assert (0.0, 0.0) == counts(number)[:2]


def test_save_inside_checkpoint_counts_once(beacon: trainbeacon.Beacon, number: Number, folder: Path) -> None:
    """Who says it himself is not counted a second time."""
    with beacon.checkpoint(folder / "last.pt"):
        torch.save(torch.zeros(3), folder / "last.pt")
        torch.save(torch.zeros(3), folder / "more.pt")
    assert (1.0, 0.0, 0.0) == counts(number)


def test_error_of_a_save_reaches_the_script_as_it_is(
    beacon: trainbeacon.Beacon, number: Number, folder: Path
) -> None:
    """What cannot be saved raises what torch raises, and is counted; the phase is over."""
    with pytest.raises(RuntimeError, match="directory"):
        torch.save(torch.zeros(3), folder / "no" / "last.pt")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        torch.save(lambda: None, folder / "last.pt")
    assert (1.0, 2.0, 0.0) == counts(number)
    assert beacon.timeline.declared is None


def test_distributed_checkpoints_are_seen(
    beacon: trainbeacon.Beacon, number: Number, model: torch.nn.Module, folder: Path
) -> None:
    """`save` and `async_save`: the asynchronous one is good when its future is done, and loads as saved."""
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder / "one")
    assert (1.0, 0.0, 0.0) == counts(number)
    with beacon.step():
        pass
    dist_free_async(model, folder / "two").result(30)
    wait_for(lambda: counts(number) == (2.0, 0.0, 0.0), what="end of the writing")
    assert 2.0 == number("training_checkpoint_step")
    loaded = {"model": {key: torch.empty_like(value) for key, value in model.state_dict().items()}}
    dcp.load(loaded, checkpoint_id=folder / "two")
    assert all(torch.equal(loaded["model"][key], value) for key, value in model.state_dict().items())
    size = float(sum(path.stat().st_size for path in (folder / "two").iterdir()))
    wait_for(lambda: number("training_checkpoint_bytes") == size, what="size")


def test_asynchronous_save_inside_checkpoint_needs_no_word(
    beacon: trainbeacon.Beacon, number: Number, model: torch.nn.Module, folder: Path
) -> None:
    """Its future is found by itself: a failure after the block is counted."""
    (folder / "file").write_bytes(b"")
    with beacon.checkpoint():
        future = dist_free_async(model, folder / "file" / "not-a-folder")
    assert future.exception(30) is not None
    wait_for(lambda: counts(number) == (1.0, 1.0, 0.0), what="failure")


def dist_free_async(model: torch.nn.Module, path: Path) -> Any:
    return dcp.async_save({"model": model.state_dict()}, checkpoint_id=path)


def test_torch_has_its_functions_back_at_the_end(folder: Path, model: torch.nn.Module) -> None:
    """The end of the run, and a switch, leave torch as it was; the replacement keeps its name and form."""
    before = torch.save, dcp.save, dcp.async_save
    with trainbeacon.start(run="r", serve="off", directory=str(folder)) as beacon:
        beacon.watch(model)
        assert before[0] is not torch.save
        assert ("save", before[0].__doc__) == (torch.save.__name__, torch.save.__doc__)
    assert before == (torch.save, dcp.save, dcp.async_save)
    with trainbeacon.start(run="r", serve="off", directory=str(folder), probes_off=["checkpoints"]) as beacon:
        beacon.watch(model)
        assert before == (torch.save, dcp.save, dcp.async_save)


# The space that is left for them

FREE, TOTAL = "training_checkpoint_disk_free_bytes", "training_checkpoint_disk_total_bytes"


def test_space_is_that_of_the_file_system_written_to(
    beacon: trainbeacon.Beacon, number: Number, folder: Path
) -> None:
    """Known as soon as a checkpoint begins, also for a folder that is yet to be made, and told by a save."""
    assert (None, None) == (number(FREE), number(TOTAL))
    with beacon.checkpoint(folder / "runs" / "one" / "last.pt"):
        wait_for(lambda: number(FREE), what="free space")
    space = os.statvfs(folder)
    assert float(space.f_blocks * space.f_frsize) == number(TOTAL)
    assert number(FREE) == pytest.approx(space.f_bavail * space.f_frsize, rel=0.2)  # others write too


def test_space_is_asked_for_again_and_again(
    beacon: trainbeacon.Beacon, number: Number, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others fill the disk between two checkpoints, which may be hours apart."""
    monkeypatch.setattr(diskspace, "INTERVAL_SECONDS", 0.2)
    statvfs = os.statvfs
    left = [1000]

    def shrinking(path: str) -> Any:
        fields = list(statvfs(path))
        left[0] -= 1
        fields[1], fields[4] = 4096, left[0]  # f_frsize, f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", shrinking)
    torch.save(torch.zeros(3), folder / "last.pt")
    wait_for(lambda: (number(FREE) or 1e18) <= 997 * 4096.0, what="third answer")


def test_file_system_that_hangs_holds_up_nothing(
    beacon: trainbeacon.Beacon, number: Number, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither steps nor the heartbeat wait for it; what was known before is not told as if it were new."""
    monkeypatch.setattr(diskspace, "INTERVAL_SECONDS", 0.2)
    with beacon.checkpoint(folder / "last.pt"):
        pass
    wait_for(lambda: number(FREE), what="free space")
    alive_again = threading.Event()
    statvfs = os.statvfs

    def hanging(path: str) -> Any:
        alive_again.wait(60)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", hanging)
    monkeypatch.setattr(diskspace, "SILENT_SECONDS", 1.0)
    try:
        wait_for(lambda: number(FREE) is None and number(TOTAL) is None, what="silence")
        heartbeat = number("training_heartbeat_timestamp_seconds") or 0.0
        with beacon.checkpoint(folder / "next.pt"):
            pass
        with beacon.step():
            pass
        assert (2.0, 0.0, 0.0) == counts(number)
        wait_for(
            lambda: (number("training_heartbeat_timestamp_seconds") or 0.0) > heartbeat, what="heartbeat"
        )
    finally:
        alive_again.set()
    wait_for(lambda: number(FREE), what="free space again")


def test_object_store_and_other_ranks_tell_no_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket has no file system; that of the working directory is another one. Rank 0 speaks for all."""
    asked: list[str] = []
    statvfs = os.statvfs

    def asking(path: str) -> os.statvfs_result:
        asked.append(path)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", asking)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for rank, path, expected in ((0, "s3://bucket/last.pt", 0), (1, str(folder), 0), (0, str(folder), 1)):
        monkeypatch.setenv("RANK", str(rank))
        asked.clear()
        with trainbeacon.start(run="r", serve="off", directory=str(folder)) as beacon:
            file_worker = FileWorker(lambda error: None)
            space = diskspace.DiskSpace(beacon.recorder, file_worker)
            space.watch(path)
            space.poll()
            assert file_worker.finish(10.0)
        assert [str(folder)] * expected == asked
