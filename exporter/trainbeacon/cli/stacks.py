"""`trainbeacon stacks`: why a run stands still, and the stacks of its ranks on this node."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from trainbeacon.blackbox.reader import Box
    from trainbeacon.recorder.hangs.diagnosis import RankView

NAME = "stacks"
HELP = "show why a run stands still: the ranks of this node, their evidence and stacks"

#: How long a rank has to answer the signal; and how long its file must be still to be whole.
ANSWER_SECONDS, STILL_SECONDS = 5.0, 0.3
MOST_ANSWER_BYTES = 1024 * 1024
_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
#: After so long without a step it is worth saying who holds the run up.
STANDS_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--run", dest="of_run", metavar="RUN", help="name of the run (default: the one that started last)"
    )
    parser.add_argument("--rank", type=int, metavar="N", help="this rank only (default: all of this node)")
    parser.add_argument("--ask", action="store_true", help="ask live ranks for their stacks, by a signal")
    parser.add_argument("--directory", metavar="DIR", help="folder of the black boxes")
    parser.add_argument("--evidence-dir", metavar="DIR", help="folder of the evidence")


def run(arguments: argparse.Namespace) -> int:
    """Print what is known; 1 if that is nothing, or a rank did not answer."""
    from trainbeacon.blackbox.directory import default_directory
    from trainbeacon.config.settings import Config, ConfigError

    try:
        config = Config.load({"directory": arguments.directory, "evidence_dir": arguments.evidence_dir})
    except ConfigError as error:
        print(f"trainbeacon stacks: {error}", file=sys.stderr)
        return 2
    directory = config.directory or default_directory()
    boxes = _of_one_run(_boxes(directory), arguments.of_run)
    wanted = [box for box in boxes if arguments.rank in (None, box.identity.rank)]
    if boxes:
        _print_ranks(boxes)
    if arguments.ask:
        answers = [_ask(box, directory) for box in wanted]
        return 0 if answers and all(answers) else _nothing(directory, arguments, bool(wanted))
    found = _evidence(boxes, directory, config.evidence_dir, arguments)
    if not found:
        return _nothing(directory, arguments, bool(wanted))
    _print_evidence(found)
    return 0


# The ranks


def _boxes(directory: str) -> list[Box]:
    from trainbeacon.blackbox.reader import BoxDirectory

    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return BoxDirectory(folder).scan()
    finally:
        os.close(folder)


def _of_one_run(boxes: Sequence[Box], run: str | None) -> list[Box]:
    """The newest box of each rank, of that run or of the one that started last."""
    if run is None and boxes:
        run = max(boxes, key=lambda box: box.identity.start).identity.run
    newest: dict[int, Box] = {}
    for box in sorted(boxes, key=lambda box: box.identity.start):
        if box.identity.run == run:
            newest[box.identity.rank] = box
    return [newest[rank] for rank in sorted(newest)]


def _print_ranks(boxes: Sequence[Box]) -> None:
    from trainbeacon.recorder.hangs.diagnosis import judge, view

    print(f"run {boxes[0].identity.run}, ranks of this node:")
    for box in boxes:
        print(f"  {_rank_line(box, view(box))}")
    stands = [_seconds_without_step(box) for box in boxes]
    if stands and min(stands) > STANDS_SECONDS:
        verdict = judge([view(box) for box in boxes])
        print(f"no step for {min(stands):.0f} s: {verdict.kind}: {verdict.text}")
    print()


def _rank_line(box: Box, seen: RankView) -> str:
    step = box.number("training_step")
    made = f"step {step:.0f}, {_seconds_without_step(box):.0f} s ago" if step else "no step yet"
    waits = [
        f"waits in collective {enqueued:.0f} of {group}"
        for group, (enqueued, completed) in sorted(seen.groups.items())
        if completed < enqueued
    ]
    who = f"rank {seen.rank} (pid {box.identity.pid})"
    return ", ".join([f"{who}: {seen.state}", made, f"phase {seen.phase or 'unknown'}", *waits])


def _seconds_without_step(box: Box) -> float:
    since = box.number("training_last_step_timestamp_seconds") or box.identity.start
    return max(0.0, time.time() - since)


def _nothing(directory: str, arguments: argparse.Namespace, there: bool) -> int:
    """Say why nothing is shown, and what to do."""
    if arguments.ask and there:
        return 1  # each rank has said why
    which = f" of rank {arguments.rank}" if arguments.rank is not None else ""
    if there:
        print(f"no evidence{which} yet: it is written once a rank makes no progress. For its stacks now:")
        print("  trainbeacon stacks --ask   (where the run was started with stacks_signal)")
        print("  py-spy dump --pid PID      (anywhere; may need root)")
    else:
        named = f" of run {arguments.of_run}" if arguments.of_run else ""
        print(f"no black box{which}{named} in {directory}: name the folder with --directory", file=sys.stderr)
    return 1


# Evidence


def _evidence(
    boxes: Sequence[Box], directory: str, named: str | None, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The newest evidence of each rank that is asked for, with what a held rank's timer has written."""
    from trainbeacon.recorder.hangs import store

    runs = {box.identity.run for box in boxes} or ({arguments.of_run} if arguments.of_run else set())
    folders = {store.evidence_directory(directory, named), *_told(boxes)}
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    documents = [document for folder in sorted(folders) for document in store.read(folder)]
    for document in sorted(documents, key=lambda document: float(document["time"])):
        run, rank = str(document.get("run")), document.get("rank")
        if isinstance(rank, int) and arguments.rank in (None, rank) and (not runs or run in runs):
            newest[run, rank] = document
    return [newest[key] for key in sorted(newest)]


def _told(boxes: Iterable[Box]) -> Iterator[str]:
    """The evidence directories that the boxes tell."""
    from trainbeacon.recorder.hangs.store import DIRECTORY_SLOT

    for box in boxes:
        yield from (labels[0] for metric, labels in box.values if metric == DIRECTORY_SLOT and labels)


def _print_evidence(found: Sequence[Mapping[str, Any]]) -> None:
    for document in found:
        print("\n".join(_shown(document)))
    for line in _differences(found):
        print(line)


def _shown(document: Mapping[str, Any]) -> Iterator[str]:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(document["time"])))
    yield f"evidence of rank {document.get('rank')} from {moment}: {document['path']}"
    yield f"  {document.get('class')}: {document.get('reason')}"
    phase = f"{document.get('phase_seconds')} s in phase {document.get('phase')}"
    yield f"  {document.get('seconds_without_step')} s without a step, {phase}"
    for waits in document.get("open") or ():
        yield f"  waits in {_operation(waits)}, collective {waits.get('op_id')} of {waits.get('group')}"
    kernel = document.get("main_thread") or {}
    yield f"  main thread: state {kernel.get('state', '?')}, {kernel.get('wchan', '?')}"
    for worker in document.get("workers") or ():
        kernel = f"state {worker.get('state')}, {worker.get('wchan')}"
        yield f"  child {worker.get('pid')} {worker.get('comm')}: {kernel}"
    yield from (f"  | {line}" for line in document.get("stacks") or ())
    yield ""


def _operation(waits: Mapping[str, Any]) -> str:
    return f"{waits.get('profiling_name')} {waits.get('input_sizes')}"


def _differences(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the ranks that wait in one group disagree about: the operation that each is in."""
    groups: dict[str, dict[str, list[int]]] = {}
    for document in found:
        for waits in document.get("open") or ():
            by_operation = groups.setdefault(str(waits.get("group")), {})
            by_operation.setdefault(_operation(waits), []).append(int(document["rank"]))
    for group, operations in sorted(groups.items()):
        if len(operations) > 1:
            parts = [
                f"ranks {', '.join(map(str, sorted(ranks)))} in {operation}"
                for operation, ranks in sorted(operations.items(), key=lambda item: len(item[1]))
            ]
            yield f"the collectives of {group} do not match: {'; '.join(parts)}"


# On demand


def _ask(box: Box, directory: str) -> bool:
    """Have a live rank write its stacks, if its box says that it has a handler. Returns whether it did."""
    from trainbeacon.recorder.hangs.stack_signal import SIGNAL_SLOT

    told = [
        (labels[0], number)
        for (metric, labels), number in box.values.items()
        if metric == SIGNAL_SLOT and labels
    ]
    problem = _obstacle(box)
    if problem is None and not told:
        problem = "it has no handler: start the run with stacks_signal='SIGUSR1'"
    if problem is None:
        path, number = told[-1]
        problem = _signal(box, directory, path, number)
    if problem is not None:
        print(f"rank {box.identity.rank}: {problem}; or on its host: py-spy dump --pid {box.identity.pid}")
    return problem is None


def _obstacle(box: Box) -> str | None:
    """Why the process may not be signalled."""
    from trainbeacon.blackbox.machine import boot_id, pid_namespace

    identity = box.identity
    if not box.held or box.state != "running" or not identity.pid:
        return f"it does not run ({box.state})"
    if (identity.pid_namespace, identity.boot_id) != (pid_namespace(), boot_id()):
        return "it runs in another container or on another host: run this command there"
    return None


def _signal(box: Box, directory: str, path: str, number: float) -> str | None:
    """Send the signal and print what the handler writes. Returns what went wrong."""
    try:
        with _open_answer(path) as file:
            process = os.pidfd_open(box.identity.pid)
            try:
                # From here on the number cannot pass to another process. Is it still the rank, and is
                # all of it one user's? A box may say anything.
                owners = {os.stat(where).st_uid for where in _belongings(box, directory)}
                allowed = owners == {os.fstat(file.fileno()).st_uid} and number in _SIGNALS
                if not allowed or box.name not in {each.name for each in _boxes(directory) if each.held}:
                    return "its box is not to be trusted, or it has just ended"
                before = file.seek(0, os.SEEK_END)
                signal.pidfd_send_signal(process, int(number))
            finally:
                os.close(process)
            text = _answer(file, before)
    except OSError as error:
        return f"it cannot be asked ({error.strerror})"
    if not text:
        return f"no answer within {ANSWER_SECONDS:.0f} s, as of a process that is stopped"
    print(f"stacks of rank {box.identity.rank}:")
    print("\n".join(f"  | {line}" for line in text.splitlines()))
    return None


def _open_answer(path: str) -> BinaryIO:
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)


def _belongings(box: Box, directory: str) -> tuple[str, str]:
    return os.path.join(directory, box.name), f"/proc/{box.identity.pid}"


def _answer(file: BinaryIO, before: int) -> str:
    """What is appended to the file, once it is still."""
    end = time.monotonic() + ANSWER_SECONDS
    size, still_since = before, time.monotonic()
    while time.monotonic() < end:
        now = file.seek(0, os.SEEK_END)
        if now != size:
            size, still_since = now, time.monotonic()
        elif size > before and time.monotonic() - still_since >= STILL_SECONDS:
            break
        time.sleep(0.05)
    file.seek(before)
    return file.read(MOST_ANSWER_BYTES).decode(errors="replace")
