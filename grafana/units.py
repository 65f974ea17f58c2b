"""Units: Grafana's for those of the catalogue."""

from __future__ import annotations

import re

from trainbeacon.catalogue import BY_NAME

#: Grafana's unit for each unit of the catalogue.
UNITS = {
    "": "short",
    "seconds": "s",
    "bytes": "bytes",
    "ratio": "percentunit",
    "celsius": "celsius",
    "watts": "watt",
    "joules": "joule",
    "hertz": "hertz",
}


def unit_of(expr: str) -> str:
    """Grafana's unit for the first metric or recorded series in `expr`; `short` where there is none.

    What an expression does to the unit (a rate, a quotient) is for the source to say with `unit=`;
    a contract test works the unit out from the expression and compares.
    """
    for name in re.findall(r"[\w:]+", expr):
        if ":" in name:  # a recorded series, level:metric:operation
            base = re.sub("_(bucket|sum|count)$", "", name.split(":")[1])
            return UNITS.get(base.rpartition("_")[2], "short")
        metric = BY_NAME.get(name) or BY_NAME.get(re.sub("_(bucket|sum|count)$", "", name))
        if metric:
            return UNITS[metric.unit]
    return "short"
