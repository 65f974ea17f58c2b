"""Log records as JSON, one a line, each with the run, rank, step and phase in which it was written.

import trainbeacon.logging

trainbeacon.logging.configure()                      # the root logger, to standard error
trainbeacon.logging.configure(file="logs/rank.jsonl")  # and into files of bounded size, one a rank

It is the standard library's logging: `JsonFormatter` can be given to any handler of yours, and
`ProgressSafeHandler` writes between progress bars. The keys are `time` (RFC 3339, UTC), `level`, `logger`,
`message`; once a run has started `run`, `rank`, `step` (completed steps) and `phase`; `exception` where there
is one; and whatever was given as `extra`.

Threads: any. Cost: some 20 us a record, in the thread that logs. Nothing here raises once it is configured.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from trainbeacon.config.redaction import as_text
from trainbeacon.identity import current
from trainbeacon.recorder.api.start import current_beacon

#: Of one text, in characters: an aggregator refuses or cuts what is longer.
LONGEST_TEXT = 16_384
#: What `logging` itself puts on a record: everything else was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Args:
        extra: keys and values for every record, such as the cluster; those of a record come before them.
    """

    def __init__(self, extra: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._extra = dict(extra or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. What JSON cannot hold becomes its text."""
        found = {
            "time": _rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _bounded(record.getMessage()),
            **_where(),
            **self._extra,
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            found["exception"] = _bounded(self.formatException(record.exc_info))
        if record.stack_info:
            found["stack"] = _bounded(self.formatStack(record.stack_info))
        try:
            return json.dumps(found, default=_text_of, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):  # NaN, keys that are no texts, values that hold themselves
            texts = {name: each if type(each) is int else _text_of(each) for name, each in found.items()}
            return json.dumps(texts, ensure_ascii=False)


class ProgressSafeHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream without breaking into the bars that tqdm draws there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record: with the bars taken away meanwhile, if there are any on a terminal."""
        with _bars_aside(self.stream):
            super().emit(record)


def configure(
    level: int | str = logging.INFO,
    *,
    stream: TextIO | None = None,
    file: str | os.PathLike[str] | None = None,
    max_bytes: int = 64 << 20,
    backups: int = 4,
    extra: dict[str, Any] | None = None,
) -> list[logging.Handler]:
    """Have the root logger write JSON, in place of what a former call has set up.

    Args:
        level: of the root logger, a name or a number.
        stream: where to; standard error by default.
        file: a file too, with the rank in its name: `logs/train.jsonl` becomes `logs/train.rank3.jsonl`. Its
            folder is made. It is begun anew at `max_bytes`, with so many `backups` kept.
        max_bytes: size of one file.
        backups: files that are kept beside it.
        extra: keys and values for every record.

    Returns:
        the handlers, for scripts that want to take them away again.

    Raises:
        ValueError: a level that does not exist, or a size below 1.
        OSError: the file cannot be opened.
    """
    if max_bytes < 1 or backups < 0:
        raise ValueError(f"max_bytes={max_bytes}, backups={backups}: give at least 1 byte, 0 files or more")
    root = logging.getLogger()
    root.setLevel(level)  # raises ValueError for a name that it does not know
    formatter = JsonFormatter(extra)
    handlers: list[logging.Handler] = [ProgressSafeHandler(stream or sys.stderr)]
    if file is not None:
        path = _of_rank(Path(file))
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(
            RotatingFileHandler(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8", delay=True)
        )
    for handler in [each for each in root.handlers if isinstance(each.formatter, JsonFormatter)]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    return handlers


def _where() -> dict[str, Any]:
    beacon = current_beacon()
    if beacon is None:
        return {}
    timeline = beacon.timeline
    return {
        "run": beacon.recorder.run,
        "rank": beacon.recorder.identity.rank,
        "step": timeline.step_end[0],
        "phase": timeline.phase,
    }


def _of_rank(path: Path) -> Path:
    return path.with_name(f"{path.stem}.rank{current().rank}{path.suffix}")


def _rfc3339(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _bounded(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _text_of(value: Any) -> str:
    return _bounded(as_text(value))


@contextlib.contextmanager
def _bars_aside(stream: TextIO) -> Iterator[None]:
    tqdm: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if not getattr(tqdm, "_instances", None) or not hasattr(tqdm, "external_write_mode"):
        yield
        return
    with tqdm.external_write_mode(file=stream):
        yield
