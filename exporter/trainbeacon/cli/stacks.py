"""`trainbeacon stacks`: why a run is stalled, and the stacks of its ranks on this node.

What boxes and evidence hold may have been written by anybody who may write into the folder: it is checked,
what cannot be right is left out, and nothing of it reaches the terminal but printable text.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from trainbeacon.blackbox.reader import Box
    from trainbeacon.recorder.hangs.diagnosis import RankView

NAME = "stacks"
HELP = "show why a run is stalled: the ranks of this node, their evidence and stacks"

#: How long a rank has to answer the signal; and how long its file must be still to be whole.
ANSWER_SECONDS, STILL_SECONDS = 5.0, 0.3
MOST_ANSWER_BYTES = 1024 * 1024
_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
#: After so long without a step it is worth saying who holds the run up.
STALLED_SECONDS = 10.0
#: Lines of one document or answer, and characters of one of them, that are shown.
MOST_LINES, MOST_CHARACTERS = 2000, 500


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
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return _nothing(directory, arguments, there=False)
    try:
        return _Node(folder, directory, config.evidence_dir, arguments).show()
    finally:
        os.close(folder)


class _Node:
    """The folder of boxes that is looked into, and what was asked about it."""

    def __init__(self, folder: int, path: str, evidence: str | None, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self._path = path
        self._evidence = evidence
        self._arguments = arguments

    def show(self) -> int:
        """Print the ranks and their evidence, or ask them for their stacks."""
        arguments = self._arguments
        boxes = _of_one_run(self.boxes(), arguments.of_run)
        wanted = [box for box in boxes if arguments.rank in (None, box.identity.rank)]
        if boxes:
            _print_ranks(boxes)
        if arguments.ask:
            answers = [_ask(self, box) for box in wanted]
            return 0 if answers and all(answers) else _nothing(self._path, arguments, there=bool(wanted))
        found = self._documents(boxes)
        for document in found:
            _print(_shown(document))
        _print(_differences(found))
        if self._print_other_places(wanted) and not found:
            return 1
        return 0 if found else _nothing(self._path, arguments, there=bool(wanted))

    def boxes(self) -> list[Box]:
        """All boxes of the folder, as they are now."""
        from trainbeacon.blackbox.reader import BoxDirectory

        return BoxDirectory(self.folder).scan()

    def _documents(self, boxes: Sequence[Box]) -> list[Mapping[str, Any]]:
        """The newest evidence of each rank that is asked for: of the folder, and of one that the user names.

        A directory that only a box names is not read: whoever wrote the box might have it read as this user.
        """
        from trainbeacon.recorder.hangs import store

        arguments = self._arguments
        runs = {box.identity.run for box in boxes} or ({arguments.of_run} if arguments.of_run else set())
        documents = store.read_beside(self.folder, self._path)
        documents += store.read(self._evidence) if self._evidence else []
        newest: dict[tuple[str, int], dict[str, Any]] = {}
        for document in sorted(documents, key=lambda document: float(document["time"])):
            run, rank = str(document.get("run")), document.get("rank")
            if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < 1 << 31:
                continue
            if arguments.rank in (None, rank) and (not runs or run in runs):
                newest[run, rank] = document
        return [newest[key] for key in sorted(newest)]

    def _print_other_places(self, boxes: Sequence[Box]) -> bool:
        """Name the directories that ranks say they keep evidence in and that were not read."""
        from trainbeacon.recorder.hangs.store import DIRECTORY_SLOT

        own = os.path.realpath(self._path)
        named = {
            labels[0] for box in boxes for slot, labels in box.values if slot == DIRECTORY_SLOT and labels
        }
        others = sorted(
            path
            for path in named
            if os.path.dirname(os.path.realpath(path)) != own and path != self._evidence
        )
        for path in others:
            command = f"trainbeacon stacks --evidence-dir {shlex.quote(path)}"
            print(_line(f"a rank keeps evidence in {path}, which is read only when named: {command}"))
        return bool(others)


def _print(lines: Iterable[str]) -> None:
    for number, line in enumerate(lines):
        if number >= MOST_LINES:
            print("  ...")
            break
        print(_line(line))


def _line(text: str) -> str:
    """Text that does to a terminal what text does: no escapes, no line breaks, no endless line."""
    from trainbeacon.identity import printable

    text = text.expandtabs(4)
    indent = len(text) - len(text.lstrip(" "))
    return " " * min(indent, 40) + printable(text[indent:], MOST_CHARACTERS).encode(errors="replace").decode()


# The ranks


def _of_one_run(boxes: Sequence[Box], run: str | None) -> list[Box]:
    """The box that counts of each rank, of that run or of the one that started last; a live one first."""
    from trainbeacon.blackbox.box import last_run, newest

    now = time.time()
    if run is None:
        run = last_run(boxes, now)
    chosen = newest((box for box in boxes if box.identity.run == run), now)
    return [chosen[key] for key in sorted(chosen)]


def _print_ranks(boxes: Sequence[Box]) -> None:
    from trainbeacon.recorder.hangs.diagnosis import judge, view

    now = time.time()
    print(_line(f"run {boxes[0].identity.run}, ranks of this node:"))
    _print(f"  {_rank_line(box, view(box), now)}" for box in boxes)
    stalled = min(box.seconds_without_step(now) for box in boxes)
    if stalled > STALLED_SECONDS:
        verdict = judge([view(box) for box in boxes])
        print(_line(f"no step for {stalled:.0f} s: {verdict.kind}: {verdict.text}"))
    print()


def _rank_line(box: Box, seen: RankView, now: float) -> str:
    made = f"step {box.step:.0f}, {box.seconds_without_step(now):.0f} s ago" if box.step else "no step yet"
    waits = [
        f"waits in collective {enqueued:.0f} of {group}"
        for group, (enqueued, completed) in sorted(seen.groups.items())
        if completed < enqueued
    ]
    who = f"rank {seen.rank} (pid {box.identity.pid})"
    return ", ".join([f"{who}: {seen.state}", made, f"phase {seen.phase or 'unknown'}", *waits])


def _nothing(directory: str, arguments: argparse.Namespace, *, there: bool) -> int:
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


# Evidence: JSON of whatever form


def _shown(document: Mapping[str, Any]) -> Iterator[str]:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(document["time"])))
    yield f"evidence of rank {document.get('rank')} from {moment}: {document['path']}"
    yield f"  {document.get('class')}: {document.get('reason')}"
    phase = f"{document.get('phase_seconds')} s in phase {document.get('phase')}"
    yield f"  {document.get('seconds_without_step')} s without a step, {phase}"
    for waits in _mappings(document.get("open")):
        yield f"  waits in {_operation(waits)}, collective {waits.get('op_id')} of {waits.get('group')}"
    kernel = next(_mappings([document.get("main_thread")]), {})
    yield f"  main thread: state {kernel.get('state', '?')}, {kernel.get('wchan', '?')}"
    for worker in _mappings(document.get("workers")):
        state = f"state {worker.get('state')}, {worker.get('wchan')}"
        yield f"  child {worker.get('pid')} {worker.get('comm')}: {state}"
    yield from (f"  | {line}" for line in _list(document.get("stacks")))
    yield ""


def _list(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


def _mappings(found: object) -> Iterator[Mapping[str, Any]]:
    return (item for item in _list(found) if isinstance(item, dict))


def _operation(waits: Mapping[str, Any]) -> str:
    return f"{waits.get('profiling_name')} {waits.get('input_sizes')}"


def _differences(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the ranks that wait in one group disagree about: the operation that each is in."""
    groups: dict[str, dict[str, list[int]]] = {}
    for document in found:
        for waits in _mappings(document.get("open")):
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


def _ask(node: _Node, box: Box) -> bool:
    """Have a live rank write its stacks, if its box says that it has a handler. Returns whether it did."""
    from trainbeacon.recorder.hangs.stack_signal import SIGNAL_SLOT

    handlers = [
        (labels[0], number)
        for (metric, labels), number in box.values.items()
        if metric == SIGNAL_SLOT and labels
    ]
    problem = _obstacle(box)
    if problem is None and not handlers:
        problem = "it has no handler: start the run with stacks_signal='SIGUSR1'"
    if problem is None:
        problem = _signal(node, box, *handlers[-1])
    if problem is not None:
        said = f"rank {box.identity.rank}: {problem}; or on its host: py-spy dump --pid {box.identity.pid}"
        print(_line(said))
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


def _signal(node: _Node, box: Box, path: str, number: float) -> str | None:
    """Send the signal and print what the handler writes. Returns what went wrong.

    A box may say anything. So before its file is opened, and before its process is signalled, box, process
    and file must be one user's, and the file a regular one.
    """
    try:
        process = os.pidfd_open(box.identity.pid)
        try:  # from here on the number cannot pass to another process
            owner = os.stat(f"/proc/{box.identity.pid}").st_uid
            box_owner = os.stat(box.name, dir_fd=node.folder, follow_symlinks=False).st_uid
            still_there = box.name in {each.name for each in node.boxes() if each.held}
            if owner != box_owner or number not in _SIGNALS or not still_there:
                return "its box is not to be trusted, or it has just ended"
            with _open_answer(path, owner) as file:
                before = file.seek(0, os.SEEK_END)
                signal.pidfd_send_signal(process, int(number))
                text = _answer(file, before)
        finally:
            os.close(process)
    except OSError as error:
        return f"it cannot be asked ({error.strerror})"
    if not text:
        return f"no answer within {ANSWER_SECONDS:.0f} s, as of a process that is stopped"
    print(f"stacks of rank {box.identity.rank}:")
    _print(f"  | {line}" for line in text.splitlines())
    return None


def _open_answer(path: str, owner: int) -> BinaryIO:
    from trainbeacon.blackbox import files

    folder = os.open(os.path.dirname(path) or os.curdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open(files.open_regular(folder, os.path.basename(path), owner=owner), "rb", buffering=0)
    finally:
        os.close(folder)


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
