"""`trainbeacon top` in a pseudo-terminal: keys, sizes, colours, sources that die, signals."""

from __future__ import annotations

import re
import signal

import pytest

from tests.unit.terminal.pages import exporter, page, terminal

pytest.importorskip("textual")

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


def colours(raw: bytes) -> set[int]:
    """The numbers of all colours that were set, those of more than sixteen as 256 and more."""
    found = set()
    for sequence in COLOUR.findall(raw):
        numbers = [int(each or 0) for each in sequence[2:-1].split(b";")]
        if 38 in numbers or 48 in numbers:
            found.add(256)
        found |= {number for number in numbers if 30 <= number <= 37 or 90 <= number <= 97}
    return found


def test_the_first_line_is_the_verdict_and_q_leaves_the_terminal_as_it_was() -> None:
    """What is wrong stands first, by word and shape; afterwards the shell goes on as before."""
    with (
        exporter(page(("running", "crashed", "running", "running"))) as source,
        terminal("top", source.address) as screen,
    ):
        screen.wait_for("A rank of the training is lost.")
        drawn = screen.text()
        assert "✖ CRITICAL A rank of the training is lost. Run gpt: rank 1 (host node-a, GPU 1)" in drawn
        assert "first: Look at that host" in drawn
        assert "running 3/4 ranks" in drawn
        screen.press("q")
        assert 0 == screen.end()
        assert screen.is_restored


def test_keys_filter_sort_freeze_and_open_a_rank() -> None:
    """One finds a rank among many, holds still what moves, and reads all about one rank."""
    with exporter(page(("running",) * 12)) as source, terminal("top", source.address, lines=40) as screen:
        at = screen.wait_for("No fault in sight: 12 ranks of 1 run at work.")
        screen.press("/")
        screen.wait_for("filter", at)
        screen.press("rank7")
        at = screen.wait_for("(enter keeps it): rank7", at)
        screen.press("\r")
        at = screen.wait_for("filter: rank7", at)
        screen.press("\r")
        at = screen.wait_for("run gpt, rank 7: running", at)
        screen.wait_for("trainbeacon stacks --run=gpt --rank=7", at)
        screen.press("\x1b")
        at = screen.wait_for("q quit", at)
        screen.press(".")
        at = screen.wait_for("RANK▲", at)
        screen.press("r")
        at = screen.wait_for("RANK▼", at)
        screen.press(" ")
        at = screen.wait_for("FROZEN", at)
        source.text = page(("running",) * 11 + ("crashed",))
        served = source.served
        while source.served < served + 2:
            screen.read()
        assert "CRITICAL" not in screen.text(at)
        screen.press(" ")
        screen.wait_for("CRITICAL", at)
        screen.press("?")
        screen.wait_for("the worst first again", at)
        screen.press("\x1b")
        screen.wait_for("q quit", len(screen.raw))
        screen.press("\x03")
        assert 0 == screen.end()
        assert screen.is_restored


def test_a_new_size_is_drawn_at_once() -> None:
    """A wide window shows more columns, a narrow one fewer, and nothing is lost to it."""
    with exporter(page()) as source, terminal("top", source.address) as screen:
        at = screen.wait_for("No fault in sight")
        assert "HOST" not in screen.text()
        screen.resize(150, 40)
        at = screen.wait_for("HOST", at)
        screen.resize(40, 10)
        screen.wait_for("No fault in sight", at)
        screen.press("q")
        assert 0 == screen.end()


def test_sixteen_colours_suffice() -> None:
    """On any terminal the colours are its own: no palette of ours."""
    with exporter(page(("running", "crashed"))) as source, terminal("top", source.address) as screen:
        screen.wait_for("CRITICAL")
        screen.press("q")
        screen.end()
        assert {31, 32} <= colours(screen.raw)
        assert 256 not in colours(screen.raw)


def test_no_color_is_obeyed() -> None:
    """Who wants no colours gets none, and loses nothing."""
    with (
        exporter(page(("running", "crashed"))) as source,
        terminal("top", source.address, NO_COLOR="1") as screen,
    ):
        screen.wait_for("✖ CRITICAL")
        screen.press("q")
        screen.end()
        chromatic = {number for number in colours(screen.raw) if number % 10 not in (0, 7)}
        assert set() == chromatic


@pytest.mark.parametrize("how", [{"LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}, {}])
def test_ascii_where_that_is_all_there_is(how: dict[str, str]) -> None:
    """By the locale or by --ascii, each sign is one that any terminal can show."""
    arguments = () if how else ("--ascii",)
    with (
        exporter(page(("running", "crashed"), run="größe")) as source,
        terminal("top", *arguments, source.address, **how) as screen,
    ):
        screen.wait_for("X CRITICAL")
        screen.press("q")
        screen.end()
        assert set() == {each for each in screen.text() if ord(each) > 126}


def test_a_source_that_dies_is_said_with_the_age_of_what_is_shown() -> None:
    """Numbers of a while ago never pass for those of now, and what comes back is shown again."""
    with exporter(page()) as source, terminal("top", "--interval", "0.5", source.address) as screen:
        at = screen.wait_for("No fault in sight")
        source.stop()
        at = screen.wait_for("A source does not answer.", at)
        screen.wait_for("silent:", at)
        at = screen.wait_for("unseen", at)
        source.text = page()
        source.start()
        screen.wait_for("No fault in sight", at)
        assert "Traceback" not in screen.text()
        screen.press("q")
        assert 0 == screen.end()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_restores_the_terminal(number: signal.Signals, status: int) -> None:
    """Whoever ends it from outside leaves no broken terminal behind."""
    with exporter(page()) as source, terminal("top", source.address) as screen:
        screen.wait_for("No fault in sight")
        screen.process.send_signal(number)
        assert status == screen.end()
        assert screen.is_restored


def test_what_a_run_is_called_cannot_steer_the_terminal() -> None:
    """A name is text of somebody else's: its escape sequences are shown as what they are not."""
    with (
        exporter(page(run="evil\x1b]0;owned\x07\x1b[2J")) as source,
        terminal("top", source.address) as screen,
    ):
        screen.wait_for("evil")
        screen.press("q")
        screen.end()
        assert b"\x1b]0;owned" not in screen.raw


def test_a_source_that_never_answers_holds_nothing_up() -> None:
    """It hangs, and the screen is there, with what the others say, and ends at once."""
    import socket

    with socket.socket() as deaf, exporter(page()) as source:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with terminal("top", "--interval", "0.5", source.address, address) as screen:
            screen.wait_for("running 4/4 ranks")
            screen.press("q")
            assert 0 == screen.end()
            assert screen.is_restored
