"""Asking a rank of this machine for a profile, and waiting for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trainbeacon.blackbox import files
from trainbeacon.blackbox.box import Box, last_run, newest
from trainbeacon.blackbox.machine import boot_id, pid_namespace
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.recorder.probes.profile_files import Answer, Folder, Request

#: What a request takes beyond its steps: the rank's look (a second), and the writing of the trace.
_MARGIN_SECONDS = 60.0
_LOOK_SECONDS = 0.1


class NoProfileError(RuntimeError):
    """There is no profile; the text says why and what to do."""


@dataclass(frozen=True)
class Asked:
    """A rank that can be asked."""

    directory: str
    box: Box


def find(directories: Iterable[str], run: str | None, rank: int) -> Asked:
    """The living rank: of that run, or of the one that started last. Raises NoProfileError."""
    found: list[Asked] = []
    searched = sorted(set(directories))
    for directory in searched:
        try:
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found += [Asked(directory, box) for box in BoxDirectory(folder).scan()]
        finally:
            os.close(folder)
    now = time.time()
    boxes = [each.box for each in found]
    named = run if run is not None else last_run(boxes, now)
    of_run = newest((box for box in boxes if box.identity.run == named), now)
    box = of_run.get((named or "", rank))
    if box is None:
        raise NoProfileError(_absent(run, rank, {b.identity.run for b in boxes}, of_run, searched))
    _check(box)
    return next(each for each in found if each.box is box)


def _absent(
    run: str | None, rank: int, runs: set[str], ranks: Iterable[tuple[str, int]], searched: list[str]
) -> str:
    numbers = ", ".join(str(number) for _, number in sorted(ranks))
    if numbers:
        return f"rank {rank} is not on this machine: here --rank is one of {numbers}"
    if runs:
        return f"run {run!r} is not on this machine: there is {', '.join(sorted(runs)[:10])}"
    return f"no run is on this machine (looked in {', '.join(searched)}): start one, or name its --directory"


def _check(box: Box) -> None:
    identity, who = box.identity, f"rank {box.identity.rank} of {box.identity.run}"
    if not box.held or box.state != "running":
        state = "has ended" if box.state == "running" else box.state
        raise NoProfileError(f"{who} does not run ({state}): a profile is of a process at work")
    if (identity.pid_namespace, identity.boot_id) != (pid_namespace(), boot_id()):
        raise NoProfileError(f"{who} runs in another container or on another host: run this command there")
    try:
        owner = os.stat(f"/proc/{identity.pid}").st_uid
    except OSError:
        raise NoProfileError(f"{who} has just ended") from None
    if owner != os.geteuid():
        raise NoProfileError(f"{who} runs as uid {owner}, and only that user may ask: sudo -u '#{owner}' ...")


def take(asked: Asked, request: Request, said: Callable[[Answer], None]) -> Answer:
    """Ask, and wait until the trace is there.

    Args:
        asked: the rank.
        request: what of.
        said: called with each answer on the way.

    Raises:
        NoProfileError: it was refused, or the rank ended or did not answer.
    """
    folder, box = Folder(asked.directory), asked.box.name
    try:
        folder.ask(box, request)
    except OSError as error:
        raise NoProfileError(f"{folder.path} cannot be used: {error}") from None
    last = None
    end = time.monotonic() + 2 * request.seconds + _MARGIN_SECONDS
    try:
        while time.monotonic() < end:
            answer = folder.answered(box, request.id)
            if answer is not None and answer != last:
                last = answer
                said(answer)
            if answer is not None and answer.state == "done":
                return answer
            if answer is not None and answer.state == "refused":
                raise NoProfileError(answer.text)
            if answer is None and not os.path.isdir(f"/proc/{asked.box.identity.pid}"):
                raise NoProfileError("the rank ended before it took the profile")
            time.sleep(_LOOK_SECONDS)
    finally:
        folder.withdraw(box)
    raise NoProfileError(_silence(last))


def _silence(last: Answer | None) -> str:
    if last is None:
        return (
            "the rank did not answer: its TrainBeacon is older than this one, was started with "
            "probes_off=['profiler'], or something holds its interpreter (trainbeacon stacks)"
        )
    return f"the rank said {last.state!r} and then nothing more: see its log"


def fetch(asked: Asked, answer: Answer, output: str) -> str:
    """Move the trace into a folder, made if absent; returns its path. Raises OSError."""
    os.makedirs(output, exist_ok=True)
    name = os.path.basename(answer.trace)
    path = os.path.join(output, name)
    with Folder(asked.directory).opened() as folder:
        with (
            open(files.open_regular(folder, name, owner=os.geteuid()), "rb") as source,
            open(path, "wb") as to,
        ):
            shutil.copyfileobj(source, to)
        files.remove(folder, name)
    return path
