"""Panels of a Grafana dashboard: one frozen dataclass a kind, each of which builds its Classic JSON.

The data source is filled in here, and the unit where the catalogue knows it. Only kinds that all
Grafana versions from 10 to 13 have. To add a kind: a subclass of `Panel` with its `type` and options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar

from grafana.units import unit_of

Json = dict[str, Any]
#: Colours by value: (from, colour), the first from None.
Steps = tuple[tuple[float | None, str], ...]
#: What is shown for a value: (text, colour).
Texts = Mapping[Any, tuple[str, str]]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PLAIN: Steps = ((None, "transparent"),)
NAN = {"type": "special", "options": {"match": "nan", "result": {"text": "NaN", "color": "red", "index": 99}}}


def steps_of(steps: Steps) -> Json:
    """Thresholds, as a field keeps them."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def override(name: str, properties: Mapping[str, Any]) -> Json:
    """Properties of the one field that has this name."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def texts_of(mappings: Texts) -> list[Json]:
    """Value mappings, as a field keeps them."""
    texts = {
        str(value): {"text": text, "color": color, "index": i}
        for i, (value, (text, color)) in enumerate(mappings.items())
    }
    return [{"type": "value", "options": texts}] if texts else []


def ref_of(index: int) -> str:
    """The letter by which a panel calls its query."""
    return chr(ord("A") + index)


def _fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}


def links_of(url: str) -> list[Json]:
    """A data link, as a field or a panel keeps it."""
    return [{"title": "Look there", "url": url, "targetBlank": False}]


def legend(calcs: tuple[str, ...] = ()) -> Json:
    """What is drawn, by name, below the picture; with what Grafana works out of each line."""
    return {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": list(calcs)}


def expand(expr: str, selectors: Mapping[str, str]) -> str:
    """`expr` with each `<name>` replaced by its label matchers, in one line."""
    for name, matchers in selectors.items():
        expr = expr.replace(f"<{name}>", matchers)
    return " ".join(expr.split())


@dataclass(frozen=True)
class Query:
    """One PromQL expression. `legend` names its series; in a table it names the value's column.

    `step` is the least distance of points. `thresholds` and `unit` are for what the legend names; in a table
    so are `mappings`, `width` (pixels) and `decimals`, and a query without a legend brings its labels only. A
    `plain` column has words for its values and no colours.
    """

    expr: str
    legend: str = ""
    step: str = ""
    unit: str = ""
    width: int = 0
    decimals: int | None = None
    thresholds: Steps = ()
    mappings: Texts = field(default_factory=dict)
    plain: bool = False


@dataclass(frozen=True)
class Panel:
    """What all kinds of panels share. Width and height are in grid units, by default the row's.

    `unit` is that of the first metric where it is not given; `colors` fixes the colour of
    series by name; `mappings` shows values as (text, colour); `empty` stands where there is no data;
    `link` is the address that a click on a series leads to.
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
    link: str = ""

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
        colors = [override(name, {"color": _fixed(color)}) for name, color in self.colors.items()]
        steps = [
            override(q.legend, {"thresholds": steps_of(q.thresholds)}) for q in self.targets if q.thresholds
        ]
        units = [override(q.legend, {"unit": q.unit}) for q in self.targets if q.unit]
        return colors + steps + units

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
            "refId": ref_of(index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expand(query.expr, selectors),
            "legendFormat": query.legend,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
            **({"interval": query.step} if query.step else {}),
        }

    def _defaults(self) -> Json:
        chosen = {
            "min": self.minimum,
            "max": self.maximum,
            "decimals": self.decimals,
            "noValue": self.empty or None,
            "links": links_of(self.link) if self.link else None,
        }
        return {
            "unit": self.unit or unit_of(" ".join(query.expr for query in self.targets)),
            "color": {"mode": self.color_mode},
            "thresholds": steps_of(self.thresholds),
            "mappings": [NAN, *texts_of(self.mappings)],
            "custom": self._custom(),
            **{key: value for key, value in chosen.items() if value is not None},
        }


@dataclass(frozen=True)
class TimeSeries(Panel):
    """Lines over time, or stacked areas or bars; from 0 unless `minimum=None`. `dashed` names limits.

    `soft_maximum` is how far the axis goes at least; `points` how many a line has at most. The legend has
    each line's last and greatest value, unless `calcs` names others; bars, which count events, have none.
    """

    _: KW_ONLY
    minimum: float | None = 0
    stacked: bool = False
    bars: bool = False
    log: bool = False
    dashed: tuple[str, ...] = ()
    soft_maximum: float | None = None
    points: int = 0
    calcs: tuple[str, ...] = ("lastNotNull", "max")

    type: ClassVar[str] = "timeseries"
    color_mode: ClassVar[str] = "palette-classic"

    @property
    def targets(self) -> tuple[Query, ...]:
        """A line alone is not called by the panel's title once more: its legend is for its values."""
        return (Query(self.queries, "value"),) if isinstance(self.queries, str) else super().targets

    def build(self, selectors: Mapping[str, str]) -> Json:
        """The panel's JSON, without its place."""
        return super().build(selectors) | ({"maxDataPoints": self.points} if self.points else {})

    def _options(self) -> Json:
        return {
            "legend": legend(() if self.bars else self.calcs),
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _custom(self) -> Json:
        soft = 1 if self.bars else self.soft_maximum
        return ({} if soft is None else {"axisSoftMax": soft}) | {
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
        return super()._overrides() + [override(name, dash) for name in self.dashed]


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
            override("max", top),
            override("min", edge),
            override("median", {"color": _fixed("green")}),
        ]


@dataclass(frozen=True)
class Stat(Panel):
    """One figure a series, on a background that the thresholds colour.

    `compact` has name above value in small type, as several queries always have. With `spark` the line of
    the time shown is drawn behind it; where the series ends before now `empty` stands there, and not the last
    of its values.
    """

    _: KW_ONLY
    empty: str = "none"
    spark: bool = False
    compact: bool = False

    type: ClassVar[str] = "stat"
    instant: ClassVar[bool] = True

    def _target(self, index: int, query: Query, selectors: Mapping[str, str]) -> Json:
        if not self.spark:
            return super()._target(index, query, selectors)
        ending = replace(query, expr=f"{query.expr} or vector(NaN)")
        return super()._target(index, ending, selectors) | {"instant": False, "range": True}

    def _defaults(self) -> Json:
        defaults = super()._defaults()
        if self.spark:
            nothing = {"match": "nan", "result": {"text": self.empty, "color": "transparent", "index": 99}}
            defaults["mappings"][0] = {"type": "special", "options": nothing}
        return defaults

    def _options(self) -> Json:
        named = len(self.targets) > 1 or "{{" in self.targets[0].legend
        return {
            "colorMode": "background_solid",
            "graphMode": "area" if self.spark else "none",
            "justifyMode": "center",
            "orientation": "auto",
            "textMode": "value_and_name" if named else "value",
            "text": {"titleSize": 11, "valueSize": 18} if self.compact or len(self.targets) > 1 else {},
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
class StateTimeline(Panel):
    """One lane a series, coloured by state: `mappings` names the states."""

    type: ClassVar[str] = "state-timeline"

    def _options(self) -> Json:
        return {
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.9,
            "legend": legend(),
            "tooltip": {"mode": "single", "sort": "none"},
        }

    def _custom(self) -> Json:
        return {"fillOpacity": 80, "lineWidth": 0}


@dataclass(frozen=True)
class Text(Panel):
    """Words in Markdown: the description is what is shown."""

    type: ClassVar[str] = "text"

    def build(self, selectors: Mapping[str, str]) -> Json:
        """The panel's JSON, without its place."""
        options = {"mode": "markdown", "content": self.description}
        return {"type": self.type, "title": self.title, "description": "", "options": options}
