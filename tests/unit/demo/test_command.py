"""The command before anything is started."""

from __future__ import annotations

import argparse

import pytest

from trainbeacon.cli import demo


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(arguments)


def test_without_torch_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing library is named together with the extra that brings it, and the status is 2."""
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "torch" else object())
    assert demo.run(parse()) == 2
    assert capsys.readouterr().err == "trainbeacon demo needs torch: pip install 'trainbeacon[demo]'\n"


@pytest.mark.parametrize("wrong", ["--ranks=0", "--minutes=0", "--port=70000", "--fault=fire", "--minutes=x"])
def test_impossible_values_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An impossible value is wrong usage, and the message names its option."""
    with pytest.raises(SystemExit):
        parse(wrong)
    assert wrong.split("=")[0] in capsys.readouterr().err
