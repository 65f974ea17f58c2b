"""Numbers of many series, look after look, at little cost.

A page of 4,096 ranks holds a quarter of a million lines, and all but the value of a line is the same in every
look. So what stands before the value is understood once and names a place; from then on a line costs one
look-up in a dictionary. One `Table` a source; a `Look` for each time that it was read.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from trainbeacon.terminal.wanted import SUBJECTS, WANTED, Want, fields_of

#: No value was served. A NaN would be one.
UNSET = -sys.float_info.max

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?")
_WITH_VALUE = re.compile(r"([a-zA-Z_:][\w:]*(?:\{.*\})?) +(\S+)(?: +\S+)?")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
#: Names of series that are remembered at most, since ranks and runs come and go.
_ROOM = 3_000_000

#: Subject, place in its array, and what a 1 means there (None: the value counts).
_Place = tuple[str, int, float | None]
Key = tuple[str, ...]

FIELDS: Mapping[str, tuple[str, ...]] = {subject: fields_of(subject) for subject in SUBJECTS}
_INDEX = {subject: {name: place for place, name in enumerate(names)} for subject, names in FIELDS.items()}


@dataclass
class Look:
    """The numbers of one look: for each subject the rows of the table, one after the other."""

    at: float
    """Unix time."""
    rows: dict[str, array[float]] = field(default_factory=dict)


class Table:
    """What is known of the series of one source. `instance` names its node where no label does."""

    def __init__(self, instance: str = "") -> None:
        self._instance = instance
        self._places: dict[Hashable, _Place | None] = {}
        self._keys: dict[str, dict[Key, int]] = {subject: {} for subject in SUBJECTS}
        self.texts: list[Mapping[str, str]] = []
        self._texts: dict[tuple[tuple[str, str], ...], int] = {}

    def new_look(self, at: float) -> Look:
        """A look without values."""
        if len(self._places) > _ROOM:
            self._places.clear()
        return Look(
            at, {s: array("d", [UNSET]) * (len(keys) * len(FIELDS[s])) for s, keys in self._keys.items()}
        )

    def keys(self, subject: str) -> Iterator[tuple[Key, int]]:
        """Every subject of that kind that was ever seen, with its row."""
        yield from self._keys[subject].items()

    def row_of(self, subject: str, key: Key) -> int:
        """The row of a subject that was seen."""
        return self._keys[subject][key]

    def read_page(self, look: Look, page: bytes) -> None:
        """Take the values of a page of /metrics. Other lines are left out."""
        places, rows = self._places, look.rows
        for line in page.splitlines():
            prefix, _, text = line.rpartition(b" ")
            try:
                place = places[prefix]
            except KeyError:
                place, text = self._learn(look, prefix, text, line)
            if place is None:
                continue
            subject, at, meaning = place
            if meaning is None:
                try:
                    rows[subject][at] = float(text)
                except ValueError:
                    continue
            elif text not in _ZERO:
                rows[subject][at] = meaning

    def add(self, look: Look, key: Hashable, name: str, labels: Mapping[str, str], value: float) -> None:
        """Take one value; `key` is equal for the same name and labels, and for nothing else."""
        try:
            place = self._places[key]
        except KeyError:
            place = self._places[key] = self._place_of(look, name, labels)
        if place is None:
            return
        subject, at, meaning = place
        if meaning is None:
            look.rows[subject][at] = value
        elif value:
            look.rows[subject][at] = meaning

    def _learn(self, look: Look, prefix: bytes, text: bytes, line: bytes) -> tuple[_Place | None, bytes]:
        """Understand what stands before a value, and keep that, unless a time stands after the value."""
        if line.startswith(b"#"):
            self._places[prefix] = None
            return None, text
        found = _LINE.fullmatch(prefix.decode(errors="replace"))
        if found is None:
            stamped = _WITH_VALUE.fullmatch(line.decode(errors="replace"))
            if stamped is None:
                return None, text
            place, _ = self._learn(look, stamped[1].encode(), b"", b"")
            return place, stamped[2].encode()
        labels = {name: _unescape(value) for name, value in _LABEL.findall(found[2] or "")}
        place = self._places[prefix] = self._place_of(look, found[1], labels)
        return place, text

    def _place_of(self, look: Look, name: str, labels: Mapping[str, str]) -> _Place | None:
        want = WANTED.get(name)
        if want is None:
            return None
        field_name = want.field
        if want.by:
            field_name = want.field.format(labels.get(want.by, ""))
        index = _INDEX[want.subject].get(field_name)
        key = self._key_of(want, labels)
        if index is None or key is None:
            return None
        return (
            want.subject,
            self._row(look, want.subject, key) * len(FIELDS[want.subject]) + index,
            self._meaning(want, labels),
        )

    def _key_of(self, want: Want, labels: Mapping[str, str]) -> Key | None:
        key = tuple(labels.get(name, "") for name in SUBJECTS[want.subject])
        if "instance" in SUBJECTS[want.subject]:
            at = SUBJECTS[want.subject].index("instance")
            return (*key[:at], key[at] or self._instance, *key[at + 1 :])
        is_of_rank = "rank" in SUBJECTS[want.subject]
        return (
            None
            if (is_of_rank and not (key[2] and key[3].isdecimal())) or (not is_of_rank and not key[2])
            else key
        )

    def _row(self, look: Look, subject: str, key: Key) -> int:
        rows = self._keys[subject]
        row = rows.get(key)
        if row is None:
            row = rows[key] = len(rows)
        missing = len(rows) * len(FIELDS[subject]) - len(look.rows[subject])
        if missing > 0:
            look.rows[subject].extend([UNSET] * missing)
        return row

    def _meaning(self, want: Want, labels: Mapping[str, str]) -> float | None:
        if not want.is_choice:
            return None
        kept = tuple((name, labels.get(name, "")) for name in (want.chosen, *want.texts) if name)
        number = self._texts.get(kept)
        if number is None:
            number = self._texts[kept] = len(self.texts)
            self.texts.append(dict(kept))
        return float(number)


_ZERO = frozenset({b"0", b"0.0"})


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text) if "\\" in text else text
