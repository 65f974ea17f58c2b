"""With CI=true the only tests that may be skipped are those that need a GPU: others fail the run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def unexpected_skips(session: pytest.Session) -> Iterator[tuple[str, str]]:
    """Name and reason of every skipped test, module or file that is not marked gpu."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", ()) if reporter else ():
        if "gpu" not in getattr(report, "keywords", ()):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            yield report.nodeid, reason


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true" and session.exitstatus == 0 and any(unexpected_skips(session)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    session = terminalreporter._session
    skips = list(unexpected_skips(session)) if os.environ.get("CI") == "true" and session else []
    if skips:
        terminalreporter.section("skipped, which CI does not allow", red=True)
        for name, reason in skips:
            terminalreporter.line(f"{name}: {reason}")
