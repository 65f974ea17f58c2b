"""The receivers that are ready to fill in: each file is valid from the version on that it names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.routes.test_routes import run

#: The least version of Alertmanager, and of the builds at hand, that takes the file.
FILES = {
    "baseline.yml": (0, 25),
    "overlay-0.26.yml": (0, 26),
    "overlay-0.28.yml": (0, 28),
    "overlay-0.28-jira.yml": (0, 29),  # Debian's 0.28 is built without
}
#: Who is notified by the example with teams of its own.
ROUTES = [
    ("pager,slack", {"severity": "critical", "run": "r"}),
    ("pager,nlp-team", {"severity": "critical", "run": "r", "owner": "nlp"}),
    ("nlp-team", {"severity": "warning", "run": "r", "owner": "nlp"}),
    ("bridge", {"severity": "warning", "run": "r", "owner": "vision"}),
    ("slack", {"severity": "warning", "run": "r", "owner": "nobody-in-particular"}),
    ("nobody", {"severity": "info", "run": "r", "owner": "nlp"}),
    ("heartbeat", {"alertname": "Watchdog", "severity": "none"}),
]


@pytest.fixture
def folder(repository: Path) -> Path:
    return repository / "alertmanager/receivers"


def version(amtool: str) -> tuple[int, int]:
    done = subprocess.run([amtool, "--version"], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)
    assert found is not None
    return int(found[1]), int(found[2])


def test_all_files_are_judged(folder: Path) -> None:
    """A file that is added is checked too."""
    assert set(FILES) == {path.name for path in folder.glob("*.yml")}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_valid_from_its_version_on(name: str, every_amtool: str, folder: Path) -> None:
    """Whoever has that version can fill it in; an older one refuses it at once, and not at night."""
    done = run(every_amtool, "check-config", folder / name)
    assert (version(every_amtool) >= FILES[name]) == (done.returncode == 0), done.stdout + done.stderr


@pytest.mark.parametrize(("receivers", "labels"), ROUTES, ids=lambda value: str(value))
def test_owners_get_their_own_runs(
    receivers: str, labels: dict[str, str], every_amtool: str, folder: Path
) -> None:
    """A page goes to the pager and to the team of the run's owner; a warning to the team alone."""
    done = run(
        every_amtool,
        "config",
        "routes",
        "test",
        f"--config.file={folder / 'baseline.yml'}",
        f"--verify.receivers={receivers}",
        *(f"{label}={value}" for label, value in labels.items()),
    )
    assert done.returncode == 0, done.stdout + done.stderr
