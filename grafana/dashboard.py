"""Dashboards: rows of panels on the 24-column grid, variables, annotations, links.

Places, ids and the data source are filled in here. Classic JSON of a low schema version is what file
provisioning takes from Grafana 10 to 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grafana.panels import DATASOURCE, Json, Panel, expand

GRID = 24
SCHEMA = 39


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it, placed left to right, `width` by `height` grid units each.

    The grid has 24 columns; a unit of height is about 30 pixels.
    """

    title: str
    panels: tuple[Panel, ...]
    width: int = 6
    height: int = 8
    collapsed: bool = False

    def build(self, top: int, selectors: Mapping[str, str]) -> tuple[list[Json], int]:
        """The JSON of the panels from grid row `top` downwards, and the grid row below them."""
        placed: list[Json] = []
        x, y, line = 0, top, 0
        for panel in self.panels:
            width, height = panel.width or self.width, panel.height or self.height
            if x + width > GRID:
                x, y, line = 0, y + line, 0
            placed.append(panel.build(selectors) | {"gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x, line = x + width, max(line, height)
        return placed, y + line


@dataclass(frozen=True)
class Variable:
    """A choice at the top of the dashboard, filled by a query.

    `several` allows more than one value and, with `whole`, All. All is `whole`, by default `.*`, which
    also matches a label that does not exist: a dashboard works with and without, say, `cluster`. An empty
    `whole` makes All the list of the values on offer. A `regex` takes the value (and perhaps the text) out
    of what the query returns. A hidden variable is worked out and not chosen.
    """

    name: str
    label: str
    query: str
    several: bool = True
    whole: str | None = ".*"
    numeric: bool = False
    regex: str = ""
    hidden: bool = False

    @property
    def all(self) -> bool:
        """Whether All is on offer."""
        return self.several and self.whole is not None

    def build(self, selectors: Mapping[str, str]) -> Json:
        """The variable's JSON."""
        query = expand(self.query, selectors)
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": "Variable"},
            "refresh": 2,  # when the time range changes
            "sort": 3 if self.numeric else 1,
            "multi": self.several,
            "includeAll": self.all,
            "allValue": (self.whole or None) if self.all else None,
            "current": {"text": ["All"], "value": ["$__all"]} if self.all else {},
            "options": [],
            "regex": self.regex,
            "hide": 2 if self.hidden else 0,
        }


@dataclass(frozen=True)
class TextVariable:
    """A value that is typed in at the top of the dashboard; `value` is what stands there at first."""

    name: str
    label: str
    value: str

    def build(self, _: Mapping[str, str]) -> Json:
        """The variable's JSON."""
        chosen = {"selected": True, "text": self.value, "value": self.value}
        return {
            "type": "textbox",
            "name": self.name,
            "label": self.label,
            "query": self.value,
            "current": chosen,
            "options": [chosen],
            "hide": 0,
        }


@dataclass(frozen=True)
class Annotation:
    """Events marked in all time series: where `expr` is above 0. `title` and `text` may use {{label}}."""

    name: str
    expr: str
    title: str
    color: str
    text: str = ""
    step: str = "15s"

    def build(self, selectors: Mapping[str, str]) -> Json:
        """The annotation's JSON."""
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": True,
            "hide": False,
            "iconColor": self.color,
            "expr": expand(self.expr, selectors),
            "step": self.step,
            "titleFormat": self.title,
            "textFormat": self.text,
            "useValueForTime": False,
        }


@dataclass(frozen=True)
class Dashboard:
    """One dashboard. `selectors` are short names for label matchers: `<ranks>` in an expression."""

    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable | TextVariable, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    selectors: Mapping[str, str] = field(default_factory=dict)
    since: str = "now-30m"
    tags: tuple[str, ...] = ("trainbeacon",)

    def build(self, uid: str) -> Json:
        """The dashboard's JSON. `uid` is its stable address, at most 40 characters."""
        return {
            "uid": uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,  # one crosshair in all panels
            "timezone": "browser",
            "time": {"from": self.since, "to": "now"},
            "refresh": "30s",
            "links": [_links(self.tags[0])],
            "templating": {"list": [_datasource(), *(v.build(self.selectors) for v in self.variables)]},
            "annotations": {"list": [a.build(self.selectors) for a in self.annotations]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        panels: list[Json] = []
        y = 0
        for row in self.rows:
            inside, bottom = row.build(y + 1, self.selectors)
            heading: Json = {"type": "row", "title": row.title, "collapsed": row.collapsed, "panels": []}
            heading["gridPos"] = {"x": 0, "y": y, "w": GRID, "h": 1}
            if row.collapsed:
                heading["panels"] = inside
                panels.append(heading)
            else:
                panels += [heading, *inside]
            y = y + 1 if row.collapsed else bottom
        _number(panels)
        return panels


def _number(panels: list[Json], start: int = 1) -> int:
    for panel in panels:
        panel["id"] = start
        start = _number(panel.get("panels", []), start + 1)
    return start


def _datasource() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "current": {"text": "default", "value": "default"},
        "options": [],
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def _links(tag: str) -> Json:
    """A menu of all dashboards with `tag`, which keeps the time range and the variables."""
    return {
        "type": "dashboards",
        "title": "TrainBeacon",
        "tags": [tag],
        "asDropdown": True,
        "keepTime": True,
        "includeVars": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
