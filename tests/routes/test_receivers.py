"""The receivers that are ready to fill in: each file is valid from the version on that it names."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.routes.test_routes import alert, run

#: The least version of Alertmanager, and of the builds at hand, that takes the file.
FILES = {
    "baseline.yml": (0, 25),
    "overlay-0.26.yml": (0, 26),
    "overlay-0.28.yml": (0, 28),
    "overlay-0.28-jira.yml": (0, 29),  # Debian's 0.28 is built without
}
#: Who is told by the example with teams of its own.
ROUTES = [
    ("pager,slack", {"severity": "critical", "run": "r"}),
    ("pager,nlp-team", {"severity": "critical", "run": "r", "owner": "nlp"}),
    ("nlp-team", {"severity": "warning", "run": "r", "owner": "nlp"}),
    ("bridge", {"severity": "warning", "run": "r", "owner": "vision"}),
    ("slack", {"severity": "warning", "run": "r", "owner": "nobody-in-particular"}),
    ("nobody", {"severity": "info", "run": "r", "owner": "nlp"}),
    ("heartbeat", {"alertname": "Watchdog", "severity": "none"}),
]
FIRING = {
    "status": "firing",
    "externalURL": "http://am.example:9093",
    "alerts": [alert("firing", rank="3"), alert("resolved", rank="1")],
    "commonLabels": {"alertname": "TrainingRankLost", "run": "my run+1"},
}
RESOLVED = {"status": "resolved", "alerts": [alert("resolved", rank="1")], "commonLabels": {"run": "gpt"}}
SILENCE = "%7Balertname%3D%22TrainingRankLost%22%2Crun%3D%22my%20run%2B1%22%7D"


@pytest.fixture
def folder(repository: Path) -> Path:
    return repository / "alertmanager/receivers"


def version(amtool: str) -> tuple[int, int]:
    done = subprocess.run([amtool, "--version"], capture_output=True, text=True, timeout=30, check=True)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)
    assert found is not None
    return int(found[1]), int(found[2])


def rendered(amtool: str, repository: Path, name: str, data: dict[str, object], file: Path) -> str:
    file.write_text(json.dumps(data))
    kind = "html" if name.endswith("html") else "text"
    done = run(
        amtool,
        "template",
        "render",
        f"--template.glob={repository}/alertmanager/templates/*.tmpl",
        f'--template.text={{{{ template "{name}" . }}}}',
        f"--template.type={kind}",
        f"--template.data={file}",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


@pytest.mark.parametrize("name", ["slack", "markdown", "html", "text"])
def test_every_channel_is_told_the_same(
    name: str, every_amtool: str, repository: Path, tmp_path: Path
) -> None:
    """Rank and host, the first action, runbook, dashboard of the run and a silence that matches it."""
    text = rendered(every_amtool, repository, f"trainbeacon.{name}", FIRING, tmp_path / "data.json")
    for part in (
        "rank 3 (host node-b, GPU 0) crashed",
        "Look at that host.",
        "https://example.org/TrainingRankLost.md",
        "http://127.0.0.1:3000/d/trainbeacon-run?var-run=my%20run%2B1",
        f"http://am.example:9093/#/silences/new?filter={SILENCE}",
        "TrainingRankLost, rank 1",
    ):
        assert part.lower() in text.lower()  # %2b is %2B


@pytest.mark.parametrize("name", ["slack", "markdown", "html"])
def test_what_is_over_asks_for_nothing(
    name: str, every_amtool: str, repository: Path, tmp_path: Path
) -> None:
    """A resolved message names what is over, and neither an action nor a silence."""
    text = rendered(every_amtool, repository, f"trainbeacon.{name}", RESOLVED, tmp_path / "data.json")
    assert "TrainingRankLost, rank 1" in text
    assert "First:" not in text
    assert "silences" not in text


def test_texts_of_a_run_are_no_html(every_amtool: str, repository: Path, tmp_path: Path) -> None:
    """A run may be called anything: in a mail it is a text, not a tag."""
    data = {**FIRING, "commonLabels": {"run": "<img src=x>"}}
    text = rendered(every_amtool, repository, "trainbeacon.html", data, tmp_path / "data.json")
    assert "<img" not in text
    assert "&lt;img src=x&gt;" in text
