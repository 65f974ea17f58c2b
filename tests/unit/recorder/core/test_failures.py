"""What kind of failure an exception is: judged on exceptions that Python and PyTorch raise for real."""

from __future__ import annotations

import datetime
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from tests.serving import environment
from trainbeacon import catalogue
from trainbeacon.recorder.core.failures import kind_of
from trainbeacon.stack.ports import free_port

PEERS = Path(__file__).with_name("failing_peers.py")


class Faulty(Dataset[int]):
    """Items of which the second one does something bad."""

    def __init__(self, fault: Callable[[], object]) -> None:
        self._fault = fault

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 1:
            self._fault()
        return index


def broken_file() -> NoReturn:
    raise ValueError("not a JPEG")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def device_error() -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def load(fault: Callable[[], object], workers: int) -> None:
    for _ in DataLoader(Faulty(fault), batch_size=1, num_workers=workers):
        pass


def store(port: int, seconds: float) -> distributed.TCPStore:
    return distributed.TCPStore("127.0.0.1", port, 2, timeout=datetime.timedelta(seconds=seconds))


def write_to_a_full_disk() -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def reset_connection() -> None:
    """A socket whose peer closes it with unread data."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        client.sendall(b"unread")
        accepted.close()
        client.recv(1)


def out_of_memory_in_disguise() -> None:
    try:
        torch.empty(1 << 50)
    except RuntimeError as error:
        raise ValueError("the batch could not be built") from error


def while_cleaning_up() -> None:
    try:
        bytearray(1 << 60)
    finally:
        raise ConnectionResetError("the tracker is gone")


def press_ctrl_c() -> None:
    """SIGINT with Python's own handler, which a shell may have taken from a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def quit_by(code: object) -> Callable[[], NoReturn]:
    return lambda: sys.exit(code)  # type: ignore[arg-type]


def raise_it(error: BaseException) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise error

    return act


RAISED: dict[str, tuple[Callable[[], object], str]] = {
    "Python's memory": (lambda: bytearray(1 << 60), "host_oom"),
    "PyTorch's memory": (lambda: torch.empty(1 << 50), "host_oom"),
    "memory behind another exception": (out_of_memory_in_disguise, "host_oom"),
    "memory, and another error while cleaning up": (while_cleaning_up, "host_oom"),
    "CUDA's memory, the class": (raise_it(torch.OutOfMemoryError("Tried to allocate 2 GiB")), "cuda_oom"),
    "CUDA's memory, as cuBLAS says it": (
        raise_it(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        "cuda_oom",
    ),
    "loader's worker killed": (lambda: load(killed, 1), "host_oom"),
    "loader's worker raises": (lambda: load(broken_file, 1), "data"),
    "loader in the process raises": (lambda: load(broken_file, 0), "data"),
    "loader's storage": (lambda: load(device_error, 1), "storage"),
    "full disk": (write_to_a_full_disk, "storage"),
    "full disk under torch.save": (lambda: torch.save(torch.zeros(100_000), "/dev/full"), "storage"),
    "store waits in vain": (lambda: store(free_port(), 0.2), "timeout"),
    "time-out of Python's": (raise_it(TimeoutError()), "timeout"),
    "NCCL's watchdog": (
        raise_it(distributed.DistBackendError("[Rank 2] Watchdog caught collective operation timeout: W")),
        "timeout",
    ),
    "NCCL's peer": (
        raise_it(distributed.DistBackendError("ncclRemoteError: A call failed, perhaps due to the network")),
        "peer_lost",
    ),
    "connection reset": (reset_connection, "peer_lost"),
    "Ctrl-C": (press_ctrl_c, "interrupted"),
    "exit after SIGTERM": (quit_by(128 + signal.SIGTERM), "interrupted"),
    "exit with a status": (quit_by(1), "other"),
    "exit with a text": (quit_by("no such file"), "other"),
    "a mistake": (lambda: [][1], "other"),
    "a missing file": (lambda: os.stat("/nowhere"), "other"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "kind"), RAISED.values(), ids=RAISED)
def test_kind_of_what_is_raised_for_real(fault: Callable[[], object], kind: str) -> None:
    """Each error as its library raises it is reported by its cause, whatever else was raised on the way."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the kinds are what is tested
        fault()
    assert kind == kind_of(caught.value)
    assert kind in catalogue.FAILURE_KINDS


def test_kind_of_what_the_peers_of_a_lost_rank_raise() -> None:
    """Three processes over gloo: one is killed, one stalls, or takes the store along."""
    done = subprocess.run(
        [sys.executable, str(PEERS), str(free_port())],
        env={**environment(), "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    expected = ["kill peer_lost"] * 2 + ["sleep timeout"] * 2 + ["store peer_lost"] * 2
    assert expected == sorted(done.stdout.splitlines()), done.stderr


class Unspeakable(Exception):  # noqa: N818 - a class of a user's
    """An exception that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_odd_exceptions_have_a_kind() -> None:
    """A text that raises, a chain that bites its tail, a group and a text of megabytes do no harm."""
    circle: Any = ValueError("a")
    circle.__context__ = KeyError("b")
    circle.__context__.__context__ = circle
    group: Any = type("Group", (Exception,), {"exceptions": (ValueError(), MemoryError())})()
    found = [kind_of(error) for error in (Unspeakable(), circle, group, ValueError("x" * 5_000_000))]
    assert ["other", "other", "host_oom", "other"] == found


def test_what_was_raised_from_none_does_not_count() -> None:
    """`raise ... from None` says that the earlier exception was no cause."""

    def without_a_cache() -> NoReturn:
        try:
            raise MemoryError
        except MemoryError:
            raise KeyError("the cache was too large, and is not needed") from None

    with pytest.raises(KeyError) as caught:
        without_a_cache()
    assert "other" == kind_of(caught.value)


def test_kind_is_of_the_whole_chain() -> None:
    """An error that was being handled is no cause of a newer one; what is raised from one is its effect."""

    def while_handling(handled: BaseException, raised: BaseException) -> str:
        raised.__context__ = handled
        return kind_of(raised)

    memory, peer = RuntimeError("CUDA out of memory."), ConnectionError("Connection refused")
    full = OSError(28, "No space left on device")
    assert "cuda_oom" == while_handling(ConnectionError("Connection refused"), memory)
    assert "cuda_oom" == while_handling(full, RuntimeError("CUDA out of memory."))
    assert "host_oom" == while_handling(MemoryError(), peer)
    assert "interrupted" == while_handling(KeyboardInterrupt(), ConnectionError("Connection reset by peer"))
    wrapped = RuntimeError("checkpoint failed")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert "storage" == kind_of(wrapped)
