"""Panels of a Grafana dashboard: one frozen dataclass a kind, each of which builds its Classic JSON.

The data source is filled in here, and the unit where the catalogue knows it. Only kinds that all
Grafana versions from 10 to 13 have. To add a kind: a subclass of `Panel` with its `type` and options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from grafana.units import unit_of

Json = dict[str, Any]
#: Colours by value: (from, colour), the first from None.
Steps = tuple[tuple[float | None, str], ...]
#: What is shown for a value: (text, colour).
Texts = Mapping[Any, tuple[str, str]]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CELL: Json = {"custom.cellOptions": {"type": "color-background", "mode": "basic"}}
PLAIN: Steps = ((None, "transparent"),)
NAN = {"type": "special", "options": {"match": "nan", "result": {"text": "NaN", "color": "red", "index": 99}}}


def _steps(steps: Steps) -> Json:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def _override(name: str, properties: Mapping[str, Any]) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _texts(mappings: Texts) -> list[Json]:
    texts = {
        str(value): {"text": text, "color": color, "index": i}
        for i, (value, (text, color)) in enumerate(mappings.items())
    }
    return [{"type": "value", "options": texts}] if texts else []


def _ref(index: int) -> str:
    return chr(ord("A") + index)


def _fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}


def expand(expr: str, selectors: Mapping[str, str]) -> str:
    """`expr` with each `<name>` replaced by its label matchers, in one line."""
    for name, matchers in selectors.items():
        expr = expr.replace(f"<{name}>", matchers)
    return " ".join(expr.split())


@dataclass(frozen=True)
class Query:
    """One PromQL expression. `legend` names its series; in a table it names the value's column.

    `thresholds` are for what the legend names; in a table so are `unit` and `mappings`, and a query
    without a legend brings its labels only.
    """

    expr: str
    legend: str = ""
    unit: str = ""
    thresholds: Steps = ()
    mappings: Texts = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """What all kinds of panels share. Width and height are in grid units, by default the row's.

    `unit` is that of the first metric where it is not given; `colors` fixes the colour of
    series by name; `mappings` shows values as (text, colour); `empty` stands where there is no data.
    """

    title: str
    description: str
    queries: str | Query | tuple[Query, ...] = ()
    _: KW_ONLY
    width: int = 0
    height: int = 0
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    decimals: int | None = None
    thresholds: Steps = PLAIN
    colors: Mapping[str, str] = field(default_factory=dict)
    mappings: Texts = field(default_factory=dict)
    empty: str = ""

    type: ClassVar[str]
    instant: ClassVar[bool] = False
    format: ClassVar[str] = "time_series"
    color_mode: ClassVar[str] = "thresholds"

    @property
    def targets(self) -> tuple[Query, ...]:
        """The queries, as they are sent. A bare expression is one series under the panel's title."""
        if isinstance(self.queries, str):
            return (Query(self.queries, self.title),)
        return (self.queries,) if isinstance(self.queries, Query) else self.queries

    # What the kinds fill in: options of the panel, of all its fields, of single fields, and what is
    # done to the results before they are drawn.

    def _options(self) -> Json:
        return {}

    def _custom(self) -> Json:
        return {}

    def _overrides(self) -> list[Json]:
        colors = [_override(name, {"color": _fixed(color)}) for name, color in self.colors.items()]
        steps = [
            _override(q.legend, {"thresholds": _steps(q.thresholds)}) for q in self.targets if q.thresholds
        ]
        return colors + steps

    def _transformations(self) -> list[Json]:
        return []

    def build(self, selectors: Mapping[str, str]) -> Json:
        """The panel's JSON, without its place."""
        return {
            "type": self.type,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "targets": [self._target(i, query, selectors) for i, query in enumerate(self.targets)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": self._options(),
            "transformations": self._transformations(),
        }

    def _target(self, index: int, query: Query, selectors: Mapping[str, str]) -> Json:
        return {
            "refId": _ref(index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expand(query.expr, selectors),
            "legendFormat": query.legend,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
        }

    def _defaults(self) -> Json:
        chosen = {
            "min": self.minimum,
            "max": self.maximum,
            "decimals": self.decimals,
            "noValue": self.empty or None,
        }
        return {
            "unit": self.unit or unit_of(" ".join(query.expr for query in self.targets)),
            "color": {"mode": self.color_mode},
            "thresholds": _steps(self.thresholds),
            "mappings": [NAN, *_texts(self.mappings)],
            "custom": self._custom(),
            **{key: value for key, value in chosen.items() if value is not None},
        }


@dataclass(frozen=True)
class TimeSeries(Panel):
    """Lines over time, or stacked areas or bars; from 0 unless `minimum=None`. `dashed` names limits."""

    _: KW_ONLY
    minimum: float | None = 0
    stacked: bool = False
    bars: bool = False
    log: bool = False
    dashed: tuple[str, ...] = ()

    type: ClassVar[str] = "timeseries"
    color_mode: ClassVar[str] = "palette-classic"

    def _options(self) -> Json:
        return {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _custom(self) -> Json:
        return {
            "drawStyle": "bars" if self.bars else "line",
            "lineWidth": 0 if self.stacked else 2,
            "fillOpacity": 70 if self.stacked or self.bars else 0,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked or self.bars else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if self.log else {"type": "linear"},
        }

    def _overrides(self) -> list[Json]:
        dash = {"custom.lineStyle": {"fill": "dash", "dash": [8, 8]}, "color": _fixed("red")}
        return super()._overrides() + [_override(name, dash) for name in self.dashed]


@dataclass(frozen=True)
class Band(TimeSeries):
    """Largest, median and smallest of one expression: three lines, be it of four ranks or of thousands."""

    @property
    def targets(self) -> tuple[Query, ...]:
        """The three queries made of the one expression."""
        expr = self.queries
        return (
            Query(f"max({expr})", "max"),
            Query(f"quantile(0.5, {expr})", "median"),
            Query(f"min({expr})", "min"),
        )

    def _overrides(self) -> list[Json]:
        edge = {"custom.lineWidth": 1, "color": _fixed("blue")}
        top = edge | {"custom.fillBelowTo": "min", "custom.fillOpacity": 20}
        return [
            _override("max", top),
            _override("min", edge),
            _override("median", {"color": _fixed("green")}),
        ]


@dataclass(frozen=True)
class Stat(Panel):
    """One figure a series, on a background that the thresholds colour."""

    _: KW_ONLY
    empty: str = "none"

    type: ClassVar[str] = "stat"
    instant: ClassVar[bool] = True

    def _options(self) -> Json:
        named = len(self.targets) > 1 or "{{" in self.targets[0].legend
        return {
            "colorMode": "background_solid",
            "graphMode": "none",
            "justifyMode": "center",
            "orientation": "auto",
            "textMode": "value_and_name" if named else "value",
            "reduceOptions": {"calcs": ["last"], "fields": "", "values": False},
        }


@dataclass(frozen=True)
class BarGauge(Panel):
    """One horizontal bar a series, from 0: for the few that a `topk` leaves."""

    _: KW_ONLY
    minimum: float | None = 0
    thresholds: Steps = ((None, "blue"),)

    type: ClassVar[str] = "bargauge"
    instant: ClassVar[bool] = True

    def _options(self) -> Json:
        return {
            "displayMode": "basic",
            "orientation": "horizontal",
            "showUnfilled": True,
            "valueMode": "color",
            "reduceOptions": {"calcs": ["last"], "fields": "", "values": False},
        }


@dataclass(frozen=True)
class Table(Panel):
    """One row for each combination of the labels that all queries share.

    `labels` are the label columns, in order, with their widths in pixels (0: what is left); then come
    the queries that have a legend. `sort` names the columns whose highest value comes first, by weight.
    `colors`, by text, is for the cells of the columns named in `colored`.
    """

    _: KW_ONLY
    labels: Mapping[str, int] = field(default_factory=dict)
    colored: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()

    type: ClassVar[str] = "table"
    instant: ClassVar[bool] = True
    format: ClassVar[str] = "table"

    def _options(self) -> Json:
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}

    def _custom(self) -> Json:
        return {"align": "left", "filterable": False}

    def _overrides(self) -> list[Json]:
        cells = _texts({text: (text, color) for text, color in self.colors.items()})
        found = [_override(name, {"custom.width": width}) for name, width in self.labels.items() if width]
        found += [_override(name, CELL | {"mappings": cells}) for name in self.colored]
        for query in self.targets:
            column: Json = {"unit": query.unit or unit_of(query.expr)}
            if query.thresholds:
                column |= CELL | {"thresholds": _steps(query.thresholds)}
            if query.mappings:
                column |= CELL | {"mappings": _texts(query.mappings)}
            if query.legend:
                found.append(_override(query.legend, column))
        return found

    def _transformations(self) -> list[Json]:
        single = len(self.targets) == 1
        values = ["Value" if single else f"Value #{_ref(i)}" for i in range(len(self.targets))]
        names = {
            value: query.legend for value, query in zip(values, self.targets, strict=True) if query.legend
        }
        hidden = ["Time", *(value for value in values if value not in names)]
        shown = [*self.labels, *names]
        organize = {
            "excludeByName": dict.fromkeys(hidden, True),
            "indexByName": {name: i for i, name in enumerate([*shown, *hidden])},
            "renameByName": names,
        }
        steps = [] if single else [{"id": "merge", "options": {}}]
        steps.append({"id": "organize", "options": organize})
        # Grafana sorts by one column at a time, and stably.
        sorts = [[{"field": name, "desc": True}] for name in reversed(self.sort)]
        return steps + [{"id": "sortBy", "options": {"fields": {}, "sort": sort}} for sort in sorts]


@dataclass(frozen=True)
class StateTimeline(Panel):
    """One lane a series, coloured by state: `mappings` names the states."""

    type: ClassVar[str] = "state-timeline"

    def _options(self) -> Json:
        return {
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.9,
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "single", "sort": "none"},
        }

    def _custom(self) -> Json:
        return {"fillOpacity": 80, "lineWidth": 0}


@dataclass(frozen=True)
class Heatmap(Panel):
    """How often which value: one query of classic buckets summed by `le`, as a rate. `unit` is the rate's."""

    type: ClassVar[str] = "heatmap"
    format: ClassVar[str] = "heatmap"

    def _options(self) -> Json:
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Blues", "steps": 32, "exponent": 0.5, "reverse": False},
            "filterValues": {"le": 1e-9},
            "legend": {"show": False},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "unit": unit_of(self.targets[0].expr)},
        }


@dataclass(frozen=True)
class Text(Panel):
    """Words in Markdown: the description is what is shown."""

    type: ClassVar[str] = "text"

    def build(self, selectors: Mapping[str, str]) -> Json:
        """The panel's JSON, without its place."""
        options = {"mode": "markdown", "content": self.description}
        return {"type": self.type, "title": self.title, "description": "", "options": options}
