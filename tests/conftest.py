"""What all tests share: the paths of the repository, and the monitoring stack's real programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.no_skips import pytest_sessionfinish, pytest_terminal_summary  # noqa: F401 - hooks
from tests.versions import versions_apart
from tools import stack

REPOSITORY = Path(__file__).resolve().parent.parent

# Before torch is loaded, and for all processes that tests start: on a full machine torch's threads spin while
# they wait for one that is not run, and a small model takes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Examples may take as long as they do on a machine that is full; none is kept between runs.
settings.register_profile("suite", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def package() -> Path:
    """The source folder of the Python package."""
    return REPOSITORY / "exporter/trainbeacon"


def _program(name: str) -> str:
    path = stack.find(name)
    if path is None:
        pytest.skip(f"{name} is not available here: `make tools`, or put it on the PATH")
    return path


@pytest.fixture(scope="session")
def prometheus() -> str:
    """The path of a Prometheus server."""
    return _program("prometheus")


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool, of the oldest version that the rules support where Debian 12 provides it."""
    return _program("promtool")


@pytest.fixture(scope="session")
def alertmanager() -> str:
    """The path of an Alertmanager server."""
    return _program("alertmanager")


@pytest.fixture(scope="session")
def amtool() -> str:
    """The path of amtool."""
    return _program("amtool")


@pytest.fixture(scope="session")
def victoria_metrics() -> str:
    """The path of VictoriaMetrics, a single server that scrapes, takes remote writes and answers PromQL."""
    return _scraper("victoria-metrics")


@pytest.fixture(scope="session")
def exporter_exporter() -> str:
    """The path of a proxy that reads what it passes on with Prometheus' Go library for text."""
    return _scraper("prometheus-exporter-exporter")


def _scraper(name: str) -> str:
    path = stack.find_scraper(name)
    if path is None:
        pytest.skip(f"{name} is not available here: `make tools`, or put it on the PATH")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--later-versions`, which `make versions` gives."""
    parser.addoption(
        "--later-versions", action="store_true", help="tests marked versions_apart: on later versions, only"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `stack_suite` runs once for every version at hand, `default` always among them.

    `tools.stack.find(program, stack_suite)` is the program's path. A later version that is not
    unpacked is no test, rather than a skipped one. What takes minutes is marked `versions_apart`: later
    versions have a run of their own.
    """
    if "stack_suite" in metafunc.fixturenames:
        others = [suite for suite in stack.suites() if suite != "default"]
        apart = metafunc.definition.get_closest_marker("versions_apart") is not None
        suites = versions_apart(metafunc.config) if apart else ["default", *others]
        metafunc.parametrize("stack_suite", suites, scope="session")


@pytest.fixture(scope="session")
def every_promtool(stack_suite: str) -> str:
    """The path of promtool, once for every version at hand."""
    return _program("promtool") if stack_suite == "default" else str(stack.find("promtool", stack_suite))


@pytest.fixture(scope="session")
def every_amtool(stack_suite: str) -> str:
    """The path of amtool, once for every version at hand."""
    return _program("amtool") if stack_suite == "default" else str(stack.find("amtool", stack_suite))
