"""Tables: one row for each thing, one column for each question about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

from grafana.panels import Json, Panel, Texts, links_of, override, ref_of, steps_of, texts_of
from grafana.units import unit_of

#: As Grafana 11 has it, and as 12 and later do; 10 cuts the line off.
WRAPPED: Json = {"custom.cellOptions": {"type": "auto", "wrapText": True}, "custom.wrapText": True}
CELL: Json = {"custom.cellOptions": {"type": "color-background", "mode": "basic"}}


@dataclass(frozen=True)
class Table(Panel):
    """One row for each combination of the labels that all queries share.

    `labels` are the label columns, in order, with their widths in pixels (0: what is left); then come
    the queries that have a legend. `sort` names the columns whose highest value comes first, by weight; with
    `ascending` the lowest.
    `colors`, by text, is for the cells of the columns named in `colored`; `links` are the addresses that
    a click on a column's cell leads to. Labels of `hidden` keep rows apart without being shown; those of
    `kept` are not shown either, and links may read them. `texts` are words for the values of a label.
    `first` names the columns that come before all others, in order; columns of `wrapped` break their lines.
    A column that takes what is left of the width has at least `least` pixels.
    """

    _: KW_ONLY
    labels: Mapping[str, int] = field(default_factory=dict)
    colored: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    ascending: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    texts: Mapping[str, Texts] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    wrapped: tuple[str, ...] = ()
    least: int = 0

    type: ClassVar[str] = "table"
    instant: ClassVar[bool] = True
    format: ClassVar[str] = "table"

    def _options(self) -> Json:
        # Grafana measures what a cell holds, and not the words that stand for it: room for two lines.
        height = "md" if self.wrapped else "sm"
        return {"showHeader": True, "cellHeight": height, "footer": {"show": False}}

    def _custom(self) -> Json:
        least = {"minWidth": self.least} if self.least else {}
        return {"align": "left", "filterable": False} | least

    def _defaults(self) -> Json:
        nothing = {"text": self.empty or "-", "color": "transparent", "index": 98}
        defaults = super()._defaults()
        defaults["mappings"].append({"type": "special", "options": {"match": "null", "result": nothing}})
        return defaults

    def _overrides(self) -> list[Json]:
        cells = texts_of({text: (text, color) for text, color in self.colors.items()})
        found = [override(name, {"custom.width": width}) for name, width in self.labels.items() if width]
        found += [override(name, CELL | {"mappings": cells}) for name in self.colored]
        found += [override(name, WRAPPED) for name in self.wrapped]
        found += [override(name, {"links": links_of(url)}) for name, url in self.links.items()]
        found += [override(name, {"mappings": texts_of(words)}) for name, words in self.texts.items()]
        found += [override(name, {"custom.hidden": True}) for name in self.kept]
        for query in self.targets:
            column: Json = {"unit": query.unit or unit_of(query.expr)}
            if query.width:
                column["custom.width"] = query.width
            if query.decimals is not None:
                column["decimals"] = query.decimals
            if query.thresholds:
                column |= CELL | {"thresholds": steps_of(query.thresholds)}
            if query.mappings:
                column |= ({} if query.plain else CELL) | {"mappings": texts_of(query.mappings)}
            if query.legend:
                found.append(override(query.legend, column))
        return found

    def _transformations(self) -> list[Json]:
        single = len(self.targets) == 1
        values = ["Value" if single else f"Value #{ref_of(i)}" for i in range(len(self.targets))]
        names = {
            value: query.legend for value, query in zip(values, self.targets, strict=True) if query.legend
        }
        hidden = ["Time", "__name__", *self.hidden, *(value for value in values if value not in names)]
        fields = {name: name for name in self.labels} | {name: value for value, name in names.items()}
        shown = [fields[name] for name in self.first] + [
            value for name, value in fields.items() if name not in self.first
        ]
        organize = {
            "excludeByName": dict.fromkeys(hidden, True),
            "indexByName": {name: i for i, name in enumerate([*shown, *self.kept, *hidden])},
            "renameByName": names,
        }
        steps = [] if single else [{"id": "merge", "options": {}}]
        steps.append({"id": "organize", "options": organize})
        # Grafana sorts by one column at a time, and stably.
        sorts = [[{"field": name, "desc": not self.ascending}] for name in reversed(self.sort)]
        return steps + [{"id": "sortBy", "options": {"fields": {}, "sort": sort}} for sort in sorts]


@dataclass(frozen=True)
class Matrix(Panel):
    """Texts by two labels of one query: a row for each value of `rows`, a column for each of `columns`.

    `cell` is the label whose value is shown.
    """

    _: KW_ONLY
    rows: str
    columns: str
    cell: str

    type: ClassVar[str] = "table"
    instant: ClassVar[bool] = True
    format: ClassVar[str] = "table"

    def _options(self) -> Json:
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}

    def _custom(self) -> Json:
        return {"align": "left", "filterable": False}

    def _transformations(self) -> list[Json]:
        fields = {"columnField": self.columns, "rowField": self.rows, "valueField": self.cell}
        return [{"id": "groupingToMatrix", "options": fields | {"emptyValue": "empty"}}]
