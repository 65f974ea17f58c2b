"""The screen: one look after the other, and keys. Everything that may take time happens in other threads."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from trainbeacon.terminal import view
from trainbeacon.terminal.screen import draw
from trainbeacon.terminal.screen.stacks import stacks_of
from trainbeacon.terminal.signs import Signs
from trainbeacon.terminal.watch import Sight, Watch

_MOST_ROWS = 200
_KEYS = "q quit  / filter  , . sort  r reverse  w worst  n run  space freeze  enter rank  ? help"
_HELP = """\
up, down, k, j   choose a rank
enter, s         what is known of it, with its stacks where it runs on this machine
/                filter: words that run, rank, state, phase, host or severity must have; rank3 is rank 3
escape           no filter, no order, all runs
, and .          sort by the column to the left or right
r                reverse the order
w                the worst first again
n                show the next run only, then all again
g                GPUs on or off
space, p         freeze what is shown; the last line says how old it is
+ and -          look more or less often
q, ctrl+c        quit

The first line is the verdict: the worst thing that is true now, in the words of its alert.
OWN is the time of a step in which a rank waited for no other; PEERS, how much of a step that is
beyond its peers'; DATA, its share of waiting for batches; LAG, collectives that it is behind and
does not move; LAST, the time since its last step."""


class Seen(Message):
    """A look has ended."""

    def __init__(self, sight: Sight) -> None:
        super().__init__()
        self.sight = sight


class Page(ModalScreen[None]):
    """A text over the screen: help, or all about a rank. Any of escape, enter, q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark,ctrl+c", "close", "close"),
    ]

    def __init__(self, text: str, load: Callable[[], str] | None = None) -> None:
        super().__init__()
        self._text = text
        self._load = load

    def compose(self) -> ComposeResult:
        """The text, with the hint of how to close it."""
        with VerticalScroll(id="page"):
            yield Static(Text(self._text), id="text")
        yield Static(Text("escape: back"), id="hint")

    def on_mount(self) -> None:
        """Fetch what takes time, in a thread."""
        if self._load is not None:
            self.query_one("#text", Static).update(Text(f"{self._text}\n\nasking for stacks ..."))
            self._fetch(self._load)

    def action_close(self) -> None:
        """Back to the ranks."""
        self.dismiss(None)

    @work(thread=True)
    def _fetch(self, load: Callable[[], str]) -> None:
        more = load()
        with contextlib.suppress(RuntimeError):  # the screen was closed meanwhile
            self.app.call_from_thread(self._show_more, more)

    def _show_more(self, more: str) -> None:
        if self.is_attached:
            self.query_one("#text", Static).update(Text(f"{self._text}\n\n{more}"))


class TopApp(App[int]):
    """`trainbeacon top`."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = ""
    CSS = """
    Screen, Page { background: ansi_default; color: ansi_default; layers: base; }
    Static { background: ansi_default; color: ansi_default; height: auto; }
    #ranks { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter { background: ansi_default; color: ansi_default; }
    #page { background: ansi_default; color: ansi_default; height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit"),
        Binding("ctrl+c,ctrl+q", "quit", priority=True),
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "move(-10)"),
        Binding("pagedown", "move(10)"),
        Binding("enter,s", "open"),
        Binding("slash", "filter"),
        Binding("escape", "reset"),
        Binding("comma", "sort(-1)"),
        Binding("full_stop", "sort(1)"),
        Binding("r", "reverse"),
        Binding("w", "worst"),
        Binding("n", "next_run"),
        Binding("g", "gpus"),
        Binding("space,p", "freeze"),
        Binding("plus", "faster(0.5)"),
        Binding("minus", "faster(2)"),
        Binding("question_mark,h", "help"),
    ]

    def __init__(self, watch: Watch, signs: Signs) -> None:
        super().__init__(ansi_color=True)
        self._watch = watch
        self._signs = signs
        self._sight = watch.sight
        self._choice = draw.Choice()
        self._frozen = False
        self._show_gpus = True
        self._is_up = False
        self._cells = (80, 24)
        self._shown: list[view.Member] = []

    def compose(self) -> ComposeResult:
        """From top to bottom: verdict, runs, ranks, GPUs, status, keys."""
        for name in ("verdict", "runs", "ranks", "gpus"):
            yield Static(id=name)
        yield Input(placeholder="filter", id="filter", compact=True)
        yield Static(id="status")
        yield Static(id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        self._is_up = True
        self._cells = self.size.width, self.size.height
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self._end, number)
        self._watch.start(self._take)
        self.set_interval(1.0, self._draw_status)
        self._draw()

    def _take(self, sight: Sight) -> None:
        self.post_message(Seen(sight))

    def _end(self, number: int) -> None:
        self.exit(0 if number == signal.SIGINT else 128 + number)

    @on(Seen)
    def seen(self, message: Seen) -> None:
        """Show a new look, unless what is shown is frozen."""
        if not self._frozen:
            self._sight = message.sight
            self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """Draw anew for the new size."""
        self._cells = event.size.width, event.size.height
        self._draw()

    # Drawing

    def _draw(self) -> None:
        """Draw everything from what is known; nothing here waits."""
        if not self._is_up:
            return
        width, height = self._cells
        base = self.screen_stack[0]
        sight, signs = self._sight, self._signs
        verdict = draw.verdict_lines(sight, signs, width, max(2, min(6, height // 5)))
        room = height - len(verdict) - 2
        runs = draw.head_lines(sight, signs, width, max(1, room // 3), self._choice.run)
        gpus = draw.gpu_lines(sight, signs, width, min(9, room // 4)) if self._show_gpus else []
        rows = max(1, min(_MOST_ROWS, room - len(runs) - len(gpus) - 2))
        ranks, self._shown = draw.rank_lines(sight, signs, width, rows, self._choice)
        for name, lines in (("verdict", verdict), ("runs", runs), ("ranks", ranks), ("gpus", gpus)):
            part = base.query_one(f"#{name}", Static)
            part.display = bool(lines)
            part.update(_joined(lines))
        base.query_one("#keys", Static).update(Text(signs.cut(_KEYS, width), style="dim"))
        self._draw_status()

    def _draw_status(self) -> None:
        if self._is_up:
            text = draw.status_line(self._sight, self._signs, self._cells[0], time.time(), self._notes())
            self.screen_stack[0].query_one("#status", Static).update(text)

    def _notes(self) -> list[str]:
        choice = self._choice
        notes = ["FROZEN"] if self._frozen else []
        typing = self.screen_stack[0].query_one("#filter", Input).display
        if choice.words or typing:
            notes.append(f"filter{' (enter keeps it)' if typing else ''}: {choice.words}")
        if choice.run:
            notes.append(f"run: {choice.run}")
        return notes

    def _choose(self, **changes: object) -> None:
        self._choice = replace(self._choice, **changes)  # type: ignore[arg-type]
        self._draw()

    # Keys

    def action_move(self, by: int) -> None:
        """Choose another rank."""
        last = max(0, len(self._shown) - 1)
        self._choose(selected=max(0, min(last, self._choice.selected + by)))

    def action_sort(self, by: int) -> None:
        """Sort by the next column."""
        titles = ["", *(each.title for each in view.columns(many_runs=len(self._sight.facts.runs) > 1))]
        at = titles.index(self._choice.sort) if self._choice.sort in titles else 0
        self._choose(sort=titles[(at + by) % len(titles)], selected=0)

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._choose(reverse=not self._choice.reverse, selected=0)

    def action_worst(self) -> None:
        """The worst first again."""
        self._choose(sort="", reverse=False, selected=0)

    def action_reset(self) -> None:
        """Neither filter nor order, and all runs."""
        self._choice = draw.Choice()
        self._draw()

    def action_next_run(self) -> None:
        """Show one run after the other, then all."""
        names = ["", *(run.name for run in view.runs_by_trouble(self._sight))]
        at = names.index(self._choice.run) if self._choice.run in names else 0
        self._choose(run=names[(at + 1) % len(names)], selected=0)

    def action_gpus(self) -> None:
        """Show GPUs, or give their room to the ranks."""
        self._show_gpus = not self._show_gpus
        self._draw()

    def action_freeze(self) -> None:
        """Keep what is shown, or go on."""
        self._frozen = not self._frozen
        if not self._frozen:
            self._sight = self._watch.sight
        self._draw()

    def action_faster(self, factor: float) -> None:
        """Look more or less often."""
        self._watch.interval = max(0.5, min(60.0, self._watch.interval * factor))
        self.notify(f"a look every {self._watch.interval:g} s", timeout=2)

    def action_filter(self) -> None:
        """Ask for the words of a filter."""
        box = self.query_one("#filter", Input)
        box.value = self._choice.words
        box.display = True
        box.focus()

    @on(Input.Changed, "#filter")
    def filter_changed(self, message: Input.Changed) -> None:
        """Filter as it is typed."""
        self._choose(words=message.value, selected=0)

    @on(Input.Submitted, "#filter")
    def filter_done(self) -> None:
        """Keep the filter."""
        self.query_one("#filter", Input).display = False
        self.set_focus(None)
        self._draw()

    def action_help(self) -> None:
        """What the keys do and the columns mean."""
        self.push_screen(Page(_HELP))

    def action_open(self) -> None:
        """All about the chosen rank."""
        if not self._shown:
            return
        member = self._shown[min(self._choice.selected, len(self._shown) - 1)]
        lines = draw.rank_page(self._sight, member, self._signs, self._cells[0] - 2)
        signs = self._signs
        self.push_screen(Page("\n".join(lines), lambda: stacks_of(member, signs)))


def _joined(lines: list[Text]) -> Text:
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def run(watch: Watch, signs: Signs) -> int:
    """Show the screen until somebody quits; returns the exit status. The terminal is as before afterwards."""
    app = TopApp(watch, signs)
    status = app.run()
    if app.return_code:
        return app.return_code
    # Threads that wait for a source that does not answer must not hold up the end.
    watch.close()
    return status or 0
