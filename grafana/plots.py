"""Panels of more than lines over time: heatmaps, lanes, and lines over something other than time."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from grafana.panels import Json, Panel, Query, legend, override
from grafana.units import unit_of


@dataclass(frozen=True)
class Heatmap(Panel):
    """How often which value: one query of classic buckets summed by `le`. `unit` is that of a cell.

    `low` and `high` are the ends of the scale of colours: with its own maximum for an end a healthy run would
    glow like a sick one.
    """

    _: KW_ONLY
    low: float = 0
    high: float = 1

    type: ClassVar[str] = "heatmap"
    format: ClassVar[str] = "heatmap"

    def _options(self) -> Json:
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Blues",
                "steps": 32,
                "exponent": 0.5,
                "reverse": False,
                "min": self.low,
                "max": self.high,
            },
            "filterValues": {"le": 1e-9},
            "legend": {"show": False},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "unit": unit_of(self.targets[0].expr)},
        }


@dataclass(frozen=True)
class Lanes(Heatmap):
    """One lane a series, coloured by its value from `low` to `high`; with `reverse` low values glow."""

    _: KW_ONLY
    reverse: bool = False

    format: ClassVar[str] = "time_series"

    def _options(self) -> Json:
        unit = self.unit or unit_of(self.targets[0].expr)
        color = {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5, "reverse": self.reverse}
        return super()._options() | {
            "color": color | {"min": self.low, "max": self.high},
            "filterValues": {},
            "cellValues": {"unit": unit},
            "legend": {"show": True},
            "yAxis": {"axisPlacement": "left", "unit": "short", "reverse": True},
        }


@dataclass(frozen=True)
class Trend(Panel):
    """Lines of several runs over something other than time: `x` is its series, `axis` its name.

    Query and `x` keep the one label `by`, which names the lines. The rows of both are merged by time. So that
    all runs have values at the same x, and can be read beside each other, x is rounded to a grid that the
    highest of all decides, of 50 to 500 cells; what falls into one cell is averaged. Then the rows are parted
    by run and joined by x.
    """

    _: KW_ONLY
    x: str
    axis: str
    by: str = "run"
    log: bool = False
    calcs: tuple[str, ...] = ("lastNotNull", "max")

    type: ClassVar[str] = "trend"
    format: ClassVar[str] = "table"
    color_mode: ClassVar[str] = "palette-classic"
    X: ClassVar[str] = "Value #B"
    Y: ClassVar[str] = "Value #A"

    @property
    def targets(self) -> tuple[Query, ...]:
        """The query of the lines, then that of x, each only where the other has a value too."""
        lines, x = f"({self.queries})", f"max by ({self.by}) ({self.x})"
        both = f" and on ({self.by}) "
        most = f"max(max_over_time({self.x}[$__range] @ end()))"
        grid = f"scalar(clamp_min(10 ^ floor(log10({most} / 50)), 1))"
        return (Query(f"{lines}{both}{x}", "{{run}}"), Query(f"round({x}, {grid}){both}{lines}", self.axis))

    def _options(self) -> Json:
        return {
            "xField": self.X,
            "legend": legend(self.calcs),
            "tooltip": {"mode": "multi", "sort": "none"},
        }

    def _custom(self) -> Json:
        scale = {"type": "log", "log": 10} if self.log else {"type": "linear"}
        return {"lineWidth": 2, "showPoints": "never", "spanNulls": True, "scaleDistribution": scale}

    def _overrides(self) -> list[Json]:
        x = {"displayName": self.axis, "unit": unit_of(self.x), "custom.axisLabel": self.axis}
        return [override(self.X, x)]

    def _defaults(self) -> Json:
        return super()._defaults() | {"displayName": f"${{__field.labels.{self.by}}}"}

    def _transformations(self) -> list[Json]:
        key: Json = {"operation": "groupby", "aggregations": []}
        cells = {self.by: key, self.X: key, self.Y: {"operation": "aggregate", "aggregations": ["mean"]}}
        parts = {"fields": [self.by], "naming": {"asLabels": True}, "keepFields": False}
        return [
            {"id": "merge", "options": {}},
            {"id": "groupBy", "options": {"fields": cells}},
            {"id": "partitionByValues", "options": parts},
            {"id": "joinByField", "options": {"byField": self.X, "mode": "outer"}},
        ]
