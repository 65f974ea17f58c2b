"""Whose an exception is that comes up in code of ours."""

from __future__ import annotations

import bdb
import functools
import signal
from collections.abc import Callable
from typing import Any

import pytest

from trainbeacon.recorder.boundary import is_of_the_script


def _raises(*_: Any) -> None:
    raise TimeoutError


class Handler:
    """As scripts write theirs."""

    def __call__(self, number: int, frame: Any) -> None:
        raise ValueError

    def method(self, number: int, frame: Any) -> None:
        self.deeper()

    def deeper(self) -> None:
        raise OSError

    @staticmethod
    def with_more(code: int, number: int, frame: Any) -> None:
        raise KeyError(code)


@pytest.mark.parametrize(
    "handler",
    [_raises, Handler(), Handler().method, functools.partial(Handler.with_more, 7), lambda n, f: 1 / 0],
    ids=["any arguments", "object", "method", "partial", "lambda"],
)
def test_what_a_signal_handler_raises_is_the_scripts(handler: Any) -> None:
    """However the handler is written, and however deep in our code the signal comes."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it raises
            _calls(lambda: signal.raise_signal(signal.SIGUSR1))
        assert is_of_the_script(caught.value)
    finally:
        signal.signal(signal.SIGUSR1, before)


def _calls(work: Callable[[], object]) -> None:
    work()


def test_a_debugger_that_is_left_is_the_scripts() -> None:
    """`q` at pdb's prompt ends the session, wherever it stands."""
    with pytest.raises(bdb.BdbQuit) as caught:
        _calls(_quit)
    assert is_of_the_script(caught.value)


def _quit() -> None:
    raise bdb.BdbQuit


@pytest.mark.parametrize(
    "work",
    [lambda: 1 / 0, lambda: float("x"), lambda: _raises(1, 2), lambda: Handler()(1, None)],
    ids=["division", "value", "function", "called by hand"],
)
def test_what_our_own_code_causes_is_ours(work: Callable[[], object]) -> None:
    """Also where the function that raises could be a handler, and is called as a function."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it raises
        _calls(work)
    assert not is_of_the_script(caught.value)
