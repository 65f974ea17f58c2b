"""Log records as JSON lines, with the place in the training at which they were written."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

import trainbeacon
import trainbeacon.logging
from trainbeacon.logging import LONGEST_TEXT, JsonFormatter, ProgressSafeHandler, configure

#: What torchrun sets for one of its ranks.
LAUNCHED = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "0"}
LAUNCHED |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the root logger writes; afterwards it is as it was."""
    root, found = logging.getLogger(), io.StringIO()
    level = root.level
    yield found
    for handler in [each for each in root.handlers if isinstance(each.formatter, JsonFormatter)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_says_where_in_the_training_it_was_written(stream: io.StringIO, tmp_path: Path) -> None:
    """Run, rank, completed steps and phase; without a run none of them, and no key that is empty."""
    configure(stream=stream)
    logging.getLogger("data").info("read %d shards", 3)
    with trainbeacon.start(run="mnist", directory=str(tmp_path), serve="off") as beacon:
        for _ in range(2):
            with beacon.step():
                pass
        with beacon.phase("checkpoint"):
            logging.getLogger("train").warning("slow", extra={"seconds": 1.5})
    found = {each["logger"]: each for each in lines(stream)}  # also others' in this process may log meanwhile
    before, inside = found["data"], found["train"]
    assert ("INFO", "read 3 shards") == (before["level"], before["message"])
    assert "run" not in before
    expected = {"run": "mnist", "rank": 0, "step": 2, "phase": "checkpoint", "seconds": 1.5}
    assert expected == {key: inside[key] for key in expected}
    age = datetime.now(timezone.utc) - datetime.fromisoformat(inside["time"].replace("Z", "+00:00"))
    assert 0 <= age.total_seconds() < 60


def test_an_exception_stays_on_one_line(stream: io.StringIO) -> None:
    """With its traceback, so that an aggregator does not tear it into many records."""
    configure(stream=stream)
    try:
        raise KeyError("labels\nof two lines")
    except KeyError:
        logging.getLogger().exception("the batch is broken")
    (found,) = lines(stream)
    assert "the batch is broken" == found["message"]
    assert found["exception"].startswith("Traceback")
    assert "KeyError" in found["exception"].splitlines()[-1]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


CIRCLE: dict[str, Any] = {}
CIRCLE["self"] = CIRCLE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (Unprintable(), "Unprintable"),
        ({1, 2}, "{1, 2}"),
        (CIRCLE, "{'self': " * 6 + "{...}" + "}" * 6),
        (Path("a"), "a"),
        ("two\nlines", "two\nlines"),
    ],
    ids=["NaN", "no text", "set", "circle", "path", "lines"],
)
def test_any_extra_becomes_valid_json(value: object, expected: str, stream: io.StringIO) -> None:
    """What JSON cannot hold becomes its text; a record is never lost and nothing raises."""
    configure(stream=stream)
    logging.getLogger().info("done", extra={"value": value})
    assert expected == lines(stream)[0]["value"]


def test_a_tensor_is_not_waited_for(stream: io.StringIO) -> None:
    """Its text would need its values from the device."""
    torch = pytest.importorskip("torch")
    configure(stream=stream)
    logging.getLogger().info("loss", extra={"loss": torch.zeros(3)})
    assert "Tensor" == lines(stream)[0]["loss"]


def test_a_long_message_keeps_its_start_and_end(stream: io.StringIO) -> None:
    """The bounds of aggregators would else drop the whole record."""
    configure(stream=stream)
    logging.getLogger().info("a" * LONGEST_TEXT + "the end")
    message = lines(stream)[0]["message"]
    assert len(message) < LONGEST_TEXT + 100
    assert message.startswith("aaa")
    assert message.endswith("the end")


def test_each_rank_has_files_of_its_own(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that is made, begun anew at their size, with so many kept."""
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    configure(stream=stream, file=tmp_path / "logs/train.jsonl", max_bytes=400, backups=2)
    for number in range(20):
        logging.getLogger().info("line %d", number)
    names = {path.name for path in (tmp_path / "logs").iterdir()}
    assert {"train.rank3.jsonl", "train.rank3.jsonl.1", "train.rank3.jsonl.2"} == names
    newest = (tmp_path / "logs/train.rank3.jsonl").read_text().splitlines()[-1]
    assert "line 19" == json.loads(newest)["message"]


def test_configure_again_replaces_what_it_set_up(stream: io.StringIO) -> None:
    """A notebook cell that runs twice writes each record once."""
    configure(stream=io.StringIO())
    configure(stream=stream, extra={"cluster": "a100"})
    logging.getLogger().info("once")
    assert ["a100"] == [each["cluster"] for each in lines(stream)]


@pytest.mark.parametrize("wrong", [{"level": "LOUD"}, {"max_bytes": 0}, {"backups": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    """At once, naming the value, with the root logger as it was."""
    before = logging.getLogger().handlers[:]
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        configure(**wrong)
    assert before == logging.getLogger().handlers


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bars_are_not_broken() -> None:
    """A record goes between two drawings of the bar, never behind it on its line."""
    terminal = Terminal()
    handler = ProgressSafeHandler(terminal)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("bars")
    logger.addHandler(handler)
    try:
        for _ in tqdm(range(3), file=terminal, mininterval=0):
            logger.warning("inside")
    finally:
        logger.removeHandler(handler)
    written = [part for part in terminal.getvalue().replace("\n", "\r").split("\r") if "inside" in part]
    assert 3 == len(written)
    assert ["inside"] * 3 == [json.loads(part)["message"] for part in written]
