"""The page of metrics: to the byte what prometheus-client would write."""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family

from trainbeacon import catalogue
from trainbeacon.exporter.collectors.base import Families
from trainbeacon.exporter.exposition import encode, metrics_page

TEXT = ""
TEXT_1 = "text/plain;version=1.0.0;escaping=allow-utf-8"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"
FORMATS = pytest.mark.parametrize("accept", [TEXT, TEXT_1, OPENMETRICS, "application/openmetrics-text"])
NUMBERS = (
    0.0,
    -0.0,
    1.0,
    -2.5,
    1e-9,
    123456.0,
    1234567.0,
    1.7952634567213519e9,
    1e300,
    float("inf"),
    float("nan"),
)


class Source:
    """Something to collect from."""

    def __init__(self, *families: Family) -> None:
        self.families = families

    def collect(self) -> tuple[Family, ...]:
        return self.families

    describe = collect


def _all_families(texts: tuple[str, ...] = ("a", 'quote " slash \\ line \n end', "été 日本")) -> Source:
    """Every metric of the catalogue, with odd numbers and odd label values."""
    families = Families()
    for number, metric in enumerate(catalogue.ALL):
        for text in texts:
            labels = (text,) * len(metric.label_names)
            if metric.type == "info":
                families.add_info(metric.name, *labels)
            elif metric.type == "histogram":
                families.add_histogram(metric.name, range(len(metric.buckets) + 1), 7.25, *labels)
            else:
                families.add(metric.name, NUMBERS[number % len(NUMBERS)], *labels)
    return Source(*families)


def _both(source: Any, accept: str) -> tuple[bytes, bytes]:
    encoder, content_type = choose_encoder(accept)
    return encode(source, content_type, encoder), encoder(source)


@FORMATS
def test_every_metric_is_written_as_prometheus_client_writes_it(accept: str) -> None:
    """Names, types, units, help, label order, escapes and numbers are the same in each format."""
    ours, theirs = _both(_all_families(), accept)
    assert ours == theirs
    again, _ = _both(_all_families(), accept)  # from kept label texts
    assert again == theirs


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.floats())
def test_any_label_and_any_number_are_written_alike(text: str, number: float) -> None:
    """Whatever a run is called and whatever a loss is, the line is that of prometheus-client."""
    families = Families()
    families.add("training_metric", number, text, "name", "train")
    for accept in (TEXT, OPENMETRICS):
        ours, theirs = _both(Source(*families), accept)
        assert ours == theirs


@FORMATS
def test_no_label_of_ours_is_too_long_for_a_scrape(accept: str) -> None:
    """Every metric of the catalogue, with labels of 1,000 bytes: each is served with at most 512."""
    encoder, content_type = choose_encoder(accept)
    page = encode(_all_families(("模" * 333, "x" * 1000)), content_type, encoder).decode()
    values = re.findall(r'="([^"]*)"', page)
    assert 2 * len(catalogue.ALL) < len(values)
    assert 512 == max(len(value.encode()) for value in values)


@FORMATS
def test_metrics_of_the_user_stand_after_ours(accept: str) -> None:
    """Families that are not of the catalogue are left to prometheus-client, and the page ends once."""
    registry = CollectorRegistry()
    Gauge("my_gauge", "A gauge.", ["kind"], registry=registry).labels("x").set(3)
    Histogram("my_seconds", "A histogram.", registry=registry).observe(0.3)
    source = Source(*_all_families().families, *registry.collect())
    ours, theirs = _both(source, accept)
    assert ours == theirs


def _get(registry: CollectorRegistry, **environ: str) -> tuple[dict[str, str], bytes]:
    answered: dict[str, str] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        assert status == "200 OK"
        answered.update(headers)

    return answered, b"".join(metrics_page(registry, environ, start_response))


def test_the_page_is_compressed_and_restricted_as_asked() -> None:
    """gzip only for who accepts it; `name[]` leaves the named metric alone."""
    registry = CollectorRegistry(auto_describe=False)
    families = _all_families(("a",))
    registry.register(families)  # type: ignore[arg-type]
    headers, page = _get(registry, HTTP_ACCEPT_ENCODING="gzip", QUERY_STRING="name[]=training_step")
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Length"] == str(len(page))
    lines = gzip.decompress(page).decode().splitlines()
    assert [line.split("{")[0] for line in lines if not line.startswith("#")] == ["training_step"]
    headers, page = _get(registry)
    assert "Content-Encoding" not in headers
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert len(page.splitlines()) > 200
