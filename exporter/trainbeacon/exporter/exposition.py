"""The page of metrics, as prometheus-client writes it and to the byte, at a fraction of the time.

Whatever works beside a trainer takes from it, on processors whose threads share a core above all; and
nine tenths of a scrape went into building the same label texts again. Here they are kept. What is not
of our catalogue (a user's own metrics), and formats of the future, are left to prometheus-client.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from trainbeacon.exporter.collectors.base import NAME_SUFFIXES, is_ours, label_value

#: Leaves a fifth to a tenth of a page; the default would take over four times as long.
GZIP_LEVEL = 1
#: Texts that are kept at most: room for one node, with much to spare.
_ROOM = 100_000
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_TEXT = ("text/plain; version=0.0.4", "text/plain; version=1.0.0")
_OPENMETRICS_END = b"# EOF\n"

_number: Callable[[float], str] = floatToGoString  # which has no types
_prefixes: dict[tuple[str, ...], str] = {}
_most_prefixes = _ROOM


def make_room(series: int) -> None:
    """Keep the texts of at least that number of series: for a process that serves many targets."""
    global _most_prefixes
    _most_prefixes = max(_ROOM, series)


def metrics_page(
    registry: CollectorRegistry, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer one scrape (WSGI): the format, compression and names (`name[]`) that the request asks for."""
    encoder, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
    names = parse_qs(environ.get("QUERY_STRING", "")).get("name[]")
    source = registry.restricted_registry(names) if names else registry
    page = encode(source, content_type, encoder)
    headers = [("Content-Type", content_type)]
    if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
        page = gzip.compress(page, GZIP_LEVEL)
        headers.append(("Content-Encoding", "gzip"))
    headers.append(("Content-Length", str(len(page))))
    start_response("200 OK", headers)
    return [page]


def encode(source: Any, content_type: str, encoder: Callable[[Any], bytes]) -> bytes:
    """The metrics of `source` (anything with `collect`) in that format."""
    openmetrics = content_type.startswith(_OPENMETRICS)
    if not openmetrics and not content_type.startswith(_TEXT):
        return encoder(source)
    ours: list[str] = []
    others: list[Family] = []
    for family in source.collect():
        if is_ours(family):
            ours.extend(_lines(family, openmetrics=openmetrics))
        else:
            others.append(family)
    rest = encoder(_Collected(others)) if others else _OPENMETRICS_END if openmetrics else b""
    return "".join(ours).encode() + rest


class _Collected:
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def _lines(family: Family, *, openmetrics: bool) -> Iterator[str]:
    name = family.name if openmetrics else family.name + NAME_SUFFIXES.get(family.type, "")
    yield f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n"
    if openmetrics and family.unit:
        yield f"# UNIT {name} {family.unit}\n"
    for sample in family.samples:
        yield f"{_prefix(sample)} {_number(sample.value)}\n"


def _prefix(sample: Sample) -> str:
    """Name and labels of a sample, as they stand before its value."""
    key = (sample.name, *sample.labels.values())  # one name has its labels in one order
    prefix = _prefixes.get(key)
    if prefix is None:
        if len(_prefixes) >= _most_prefixes:  # ranks and runs come and go
            _prefixes.clear()
        prefix = _prefixes[key] = _new_prefix(sample)
    return prefix


def _new_prefix(sample: Sample) -> str:
    if not sample.labels:
        return str(sample.name)
    labels = ",".join(
        f'{name}="{escaped(label_value(text))}"' for name, text in sorted(sample.labels.items())
    )
    return f"{sample.name}{{{labels}}}"


def escaped(text: str) -> str:
    """The value of a label as it is written between quotation marks."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
