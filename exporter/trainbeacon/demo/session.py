"""One demo from start to end."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from types import FrameType

from trainbeacon.demo import progress
from trainbeacon.demo.launch import Ranks, describe
from trainbeacon.demo.terminal import Terminal, figures
from trainbeacon.stack import binaries, processes, tether
from trainbeacon.stack.ports import port_is_free
from trainbeacon.stack.receiver import WATCHDOG, Notification
from trainbeacon.stack.stack import Stack, StackError
from trainbeacon.stack.up.joined import Joined, join

#: Name of the demo's run: the label `run` of its series.
RUN = "demo"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_BE_LATE = 30.0  # start of the ranks, and the last steps of a slow one
_SECONDS_FOR_VICTIMS = 20.0  # ranks that cannot go on without one that died
_SECONDS_FOR_NOTIFICATIONS = 60.0  # after the fault
_SECONDS_AFTER_NOTIFICATION = 8.0


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    ranks: int = 4
    minutes: float = 5.0
    port: int = 9797
    fault: str = ""
    """Kind of the fault; empty for none."""
    fault_at: float = 30.0
    """Seconds of training until the fault."""
    stack: bool = True
    job: tuple[str, ...] = ()
    """Further options for the training script."""

    @property
    def fault_rank(self) -> int:
        """The rank that the fault happens to."""
        return min(1, self.ranks - 1)

    @property
    def address(self) -> str:
        """Host and port of /metrics."""
        return f"127.0.0.1:{self.port}"


class _Interrupted(BaseException):
    """Somebody wants the demo to end: Ctrl-C, or another signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class Session:
    """One demo: what it was asked for and what it has seen so far."""

    options: Options
    terminal: Terminal
    last: progress.Progress = field(default_factory=progress.Progress)
    """The last successful look at /metrics."""
    fault_at: float | None = None
    """Monotonic time of the fault."""
    joined: Joined | None = None
    """What `trainbeacon up` has started, where it watches this run too."""
    changes: list[tuple[float, Notification]] = field(default_factory=list)
    """Notifications without repetitions and without the Watchdog, with their monotonic time."""

    def run(self) -> int:
        """Run the demo; returns the exit status. Whatever ends it, nothing that it started is left."""
        if not port_is_free(self.options.port):
            self.terminal.say(
                f"port {self.options.port} of 127.0.0.1 is taken: end what listens there or give --port",
                "red",
            )
            return 2
        tether.adopt_orphans()
        with _signals_interrupt(), ExitStack() as closing:
            try:
                status = self._run(closing)
            except _Interrupted as interruption:
                _ignore_signals()
                self._look()
                status = 0 if interruption.number == signal.SIGINT else 128 + interruption.number
            finally:
                _ignore_signals()  # the end takes seconds; a second Ctrl-C must not leave it half done
        self._summarise()
        return status

    def _run(self, closing: ExitStack) -> int:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="trainbeacon-demo-")))
        closing.callback(processes.stop_descendants)
        ranks = closing.enter_context(
            Ranks(self.options.ranks, self._job(folder), folder, on_line=self._hear)
        )
        self.joined = join() if self.options.stack else None
        stack: Stack | Joined | None = self.joined
        if stack is None and self.options.stack:
            stack = closing.enter_context(self._stack())
        self.terminal.addresses(self._addresses(stack))
        closing.enter_context(self.terminal)
        self._watch(ranks)
        status = self._judge(ranks)
        if stack is not None and self.options.fault:
            self._wait_for_notifications()
        return status

    def _job(self, folder: Path) -> list[str]:
        options = self.options
        line = ["--seconds", str(options.minutes * 60), "--port", str(options.port)]
        line += ["--directory", str(folder / "boxes"), "--checkpoint", str(folder / "checkpoint.pt")]
        if options.fault:
            line += ["--fault", options.fault, "--fault-rank", str(options.fault_rank)]
            line += ["--fault-seconds", str(options.fault_at)]
        return [*line, *options.job]

    @contextmanager
    def _stack(self) -> Iterator[Stack | None]:
        """The stack, or None with an explanation of why there is none."""
        tools = binaries.find()
        with ExitStack() as closing:
            stack = None
            if not tools.complete:
                self.terminal.say(binaries.HOW_TO_GET.format(cache=binaries.cache_dir()), "yellow")
            else:
                try:
                    stack = closing.enter_context(
                        Stack([self.options.address], on_change=self._notice, tools=tools)
                    )
                except (StackError, FileNotFoundError) as error:
                    self.terminal.say(str(error), "red")
            yield stack

    def _addresses(self, stack: Stack | Joined | None) -> list[tuple[str, str]]:
        rows = [("metrics", f"http://{self.options.address}/metrics")]
        if self.joined is not None:
            self.terminal.say("`trainbeacon up` is running: it watches this run, nothing else is started")
        if stack is not None:
            rows += [("Prometheus", stack.prometheus_url), ("Alertmanager", stack.alertmanager_url)]
        ends = f"after {self.options.minutes:g} minutes, or with Ctrl-C"
        if self.options.fault:
            rows.append(("fault", f"{self.options.fault}, {self.options.fault_at:g} s after training starts"))
        return [*rows, ("ends", ends)]

    def _watch(self, ranks: Ranks) -> None:
        """Show how training goes until it ends."""
        end = time.monotonic() + self.options.minutes * 60 + _SECONDS_TO_BE_LATE
        while ranks.alive and time.monotonic() < end:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            self._look()
            if any(ranks.results()):  # one failed: those that cannot notice need not wait until the end
                end = min(end, time.monotonic() + _SECONDS_FOR_VICTIMS)
        self._look()

    def _look(self) -> None:
        try:
            self.last = progress.read(f"http://{self.options.address}/metrics", RUN)
        except OSError:
            self._take_joined()
            return  # not there yet, or between two exporters: the next look will tell
        self.terminal.show(self.last)
        self._take_joined()

    def _take_joined(self) -> None:
        """Show what the stack that was joined has sent about this run."""
        for notification in self.joined.new() if self.joined is not None else ():
            if notification.labels.get("run") == RUN:
                self._notice(notification)

    def _judge(self, ranks: Ranks) -> int:
        """Say which ranks failed; returns the exit status of the demo."""
        failed = [(rank, result) for rank, result in enumerate(ranks.results()) if result]
        for rank, result in failed:
            why = f": {shorten(processes.last_lines(ranks.log(rank), 1), 150)}" if result > 0 else ""
            self.terminal.say(f"rank {rank}: {describe(result)}{why}")
        if ranks.alive:
            self.terminal.say("the time is up and ranks still wait: ending them")
        return 1 if failed and self.options.fault != "crash" else 0

    def _wait_for_notifications(self) -> None:
        """After the end of training, give the alerts on a fresh fault the time that they need."""
        if self.fault_at is None:
            return
        end = self.fault_at + _SECONDS_FOR_NOTIFICATIONS
        if not self.changes and time.monotonic() < end:
            self.terminal.say("training has ended; waiting for what Prometheus makes of it ...")
        while time.monotonic() < end and (not self.changes or self._just_notified()):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            self._look()

    def _just_notified(self) -> bool:
        return bool(self.changes) and time.monotonic() - self.changes[-1][0] < _SECONDS_AFTER_NOTIFICATION

    def _hear(self, rank: int, line: str) -> None:
        """Take a line of a rank's standard output."""
        if line.startswith("FAULT "):
            self.fault_at = time.monotonic()
            self.terminal.say(f"> {line}", "bold magenta")
        else:
            self.terminal.say(f"[rank {rank}] {line}")

    def _notice(self, notification: Notification) -> None:
        """Take a notification."""
        now = time.monotonic()
        since = f"{now - self.fault_at:.0f} s after the fault" if self.fault_at else ""
        self.terminal.notify(notification, since)
        if notification.alert != WATCHDOG:
            self.changes.append((now, notification))

    def _summarise(self) -> None:
        shown = self.last
        if shown.step is not None:
            planned = f" of {shown.planned}" if shown.planned else ""
            self.terminal.say(f"trained {shown.step}{planned} steps: {figures(shown)}")
        firing = [each.alert for _, each in self.changes if each.status == "firing"]
        self.terminal.say(f"notifications: {', '.join(firing) or 'none'}")


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Raise `_Interrupted` in the main thread on Ctrl-C, SIGTERM and the end of the terminal."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise _Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
