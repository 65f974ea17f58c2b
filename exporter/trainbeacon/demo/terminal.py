"""What the viewer of the demo sees: a bar where there is a terminal, else a line every few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from trainbeacon.demo.progress import Progress
from trainbeacon.stack.receiver import WATCHDOG, Notification

_SECONDS_BETWEEN_LINES = 5.0
_COLOURS = {"critical": "bold red", "warning": "yellow", "info": "blue", "none": "dim"}


class Terminal:
    """The demo's output. A context manager; its methods may be called from any thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, figures="starting")
        self._next_line = 0.0

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line above the bar."""
        self._console.print(escape(text), style=style or None)

    def addresses(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print the table of what can be looked at."""
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, address in rows:
            table.add_row(f"[bold]{escape(name)}[/bold]", escape(address))
        self._console.print(table)

    def show(self, progress: Progress) -> None:
        """Move the bar, or print a line if the last is some seconds old."""
        text = figures(progress)
        self._bar.update(self._task, completed=progress.step or 0, total=progress.planned, figures=text)
        if self._bar.disable and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            self.say(f"step {progress.step or 0}/{progress.planned or '?'}  {text}")

    def notify(self, notification: Notification, when: str = "") -> None:
        """Print a notification as it arrives."""
        for line, style in notification_lines(notification, when):
            self.say(line, style)


def figures(progress: Progress) -> str:
    """Loss, accuracy and throughput in one line, and the ranks that are not running."""
    shown = (
        _figure("loss", progress.loss, "{:.2f}"),
        _figure("accuracy", progress.accuracy, "{:.0%}"),
        _figure("validation loss", progress.validation_loss, "{:.2f}"),
        _figure("accuracy", progress.validation_accuracy, "{:.0%}"),
        _figure("tokens/s", progress.tokens_per_second, "{:,.0f}"),
        *(f"rank {rank} {state}" for rank, state in progress.states.items() if state != "running"),
    )
    return "  ".join(part for part in shown if part) or "starting"


def _figure(name: str, value: float | None, form: str) -> str:
    if value is None:
        return ""
    return f"{name} {form.format(value) if math.isfinite(value) else value}"


def notification_lines(notification: Notification, when: str = "") -> list[tuple[str, str]]:
    """A notification for the eye: lines and their styles."""
    if notification.alert == WATCHDOG:
        said = "the way from Prometheus to here works" if notification.status == "firing" else "ended"
        return [(f"* Watchdog: {said}", "dim")]
    resolved = notification.status == "resolved"
    labels = notification.labels
    who = "  ".join(f"{name}={labels[name]}" for name in ("run", "rank", "gpu") if name in labels)
    severity = "resolved" if resolved else notification.severity or "firing"
    style = "green" if resolved else _COLOURS.get(notification.severity, "bold")
    lines = [("  ".join(filter(None, (f"! {severity.upper()}", notification.alert, who, when))), style)]
    if resolved:
        return lines
    for name, shown in (("summary", "what"), ("description", "where"), ("action", "first")):
        text = " ".join(notification.annotations.get(name, "").split())
        if text:
            lines.append((f"    {shown}: {text}", ""))
    return lines
