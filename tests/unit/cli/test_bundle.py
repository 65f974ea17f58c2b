"""`trainbeacon bundle` from a real wheel: what pip installed is what an operator gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from trainbeacon.stack import bundle as shipped


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel in it, as `pip install --target` makes one."""
    built, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def bundle(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainbeacon", "bundle", *map(str, arguments)],
        env={"PYTHONPATH": str(installed), "PYTHONWARNINGS": "error", "PATH": "/usr/bin:/bin"},
        cwd=installed,
        capture_output=True,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_wheel_writes_out_what_the_checkout_has(installed: Path, repository: Path, tmp_path: Path) -> None:
    """Every rule, route, dashboard and provisioning file of the tree arrives, byte for byte."""
    done = bundle(installed, tmp_path / "new" / "folder")
    assert (0, "") == (done.returncode, done.stderr)
    expected = {str(file): (repository / file).read_bytes() for file in shipped.files(repository)}
    assert expected == contents(tmp_path / "new" / "folder")
    folders = {
        "prometheus/rules/alerts",
        "alertmanager",
        "grafana/dashboards",
        "grafana/provisioning/datasources",
    }
    assert folders <= {str(Path(file).parent) for file in expected}


def test_it_says_what_to_do_with_each_part(installed: Path, tmp_path: Path) -> None:
    """The next step of each part is printed, with the paths that were written."""
    said = bundle(installed, tmp_path).stdout
    assert f"prometheus --config.file={tmp_path}/prometheus/prometheus.yml" in said
    assert f"alertmanager --config.file={tmp_path}/alertmanager/alertmanager.yml" in said
    assert [] == [part.folder for part in shipped.parts(shipped.bundle_dir()) if part.folder not in said]


def test_what_it_wrote_is_good_for_prometheus(installed: Path, promtool: str, tmp_path: Path) -> None:
    """promtool accepts configuration and rules as they lie there, and finds rules at all."""
    bundle(installed, tmp_path)
    config = tmp_path / "prometheus" / "prometheus.yml"
    done = subprocess.run([promtool, "check", "config", config], capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)
    rules = [rule for file in (tmp_path / "prometheus/rules").rglob("*.yml") for rule in _rules(file)]
    assert "Watchdog" in {rule.get("alert") for rule in rules}
    assert "SUCCESS" in done.stdout


def test_rule_files_that_it_names_are_taken(installed: Path, promtool: str, tmp_path: Path) -> None:
    """The line for a Prometheus that runs already finds all rules, as it is printed."""
    said = bundle(installed, tmp_path).stdout
    config = tmp_path / "mine.yml"
    config.write_text(next(line.strip() + "\n" for line in said.splitlines() if "rule_files:" in line))
    done = subprocess.run([promtool, "check", "config", config], capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)
    for file in (tmp_path / "prometheus/rules").rglob("*.yml"):
        assert f"Checking {file}" in done.stdout


def _rules(file: Path) -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def test_changed_files_are_not_overwritten(installed: Path, tmp_path: Path) -> None:
    """A file that the operator changed stops the command, is named, and nothing at all is written."""
    changed = tmp_path / "alertmanager" / "alertmanager.yml"
    changed.parent.mkdir()
    changed.write_text("receivers: mine\n")
    done = bundle(installed, tmp_path)
    assert (1, "") == (done.returncode, done.stdout)
    assert str(changed) in done.stderr
    assert "--force" in done.stderr
    assert {"alertmanager/alertmanager.yml": b"receivers: mine\n"} == contents(tmp_path)


def test_force_overwrites_and_a_second_time_changes_nothing(
    installed: Path, repository: Path, tmp_path: Path
) -> None:
    """`--force` restores ours; where all is the same already, nothing is written and nothing refused."""
    changed = tmp_path / "prometheus" / "prometheus.yml"
    assert 0 == bundle(installed, tmp_path).returncode
    changed.write_text("mine\n")
    assert "1 files written" in bundle(installed, tmp_path, "--force").stdout
    assert (repository / "prometheus/prometheus.yml").read_bytes() == changed.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "0 files written" in bundle(installed, tmp_path).stdout
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_place_that_cannot_be_written_is_said(installed: Path, tmp_path: Path) -> None:
    """A path that is a file is an error with its name and status 2, not a traceback."""
    (tmp_path / "file").write_text("")
    done = bundle(installed, tmp_path / "file")
    assert 2 == done.returncode
    assert done.stderr.startswith("trainbeacon bundle: ")
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_rules_link_to_the_runbooks_where_they_are(installed: Path, tmp_path: Path) -> None:
    """`--runbook-url` is the base of every alert's link; a second time nothing is changed or refused."""
    url = "http://trainbeacon-notify:9798/runbooks"
    assert 0 == bundle(installed, tmp_path, "--runbook-url", f"{url}/").returncode
    rules = [rule for file in (tmp_path / "prometheus/rules").rglob("*.yml") for rule in _rules(file)]
    alerts = [rule for rule in rules if "alert" in rule]
    assert {f"{url}/{alert['alert']}.md" for alert in alerts} == {
        alert["annotations"]["runbook_url"]  # type: ignore[index]
        for alert in alerts
    }
    assert "0 files written" in bundle(installed, tmp_path, "--runbook-url", url).stdout
    assert 1 == bundle(installed, tmp_path).returncode


@pytest.mark.parametrize("url", ["runbooks", "javascript:x", "https://a b"])
def test_an_address_that_is_none_is_refused(installed: Path, tmp_path: Path, url: str) -> None:
    """Before anything is written, with what to give."""
    done = bundle(installed, tmp_path, "--runbook-url", url)
    assert (2, {}) == (done.returncode, contents(tmp_path))
    assert f"--runbook-url={url}" in done.stderr
    assert "https://wiki.example.org/runbooks" in done.stderr


def test_runbooks_are_in_the_package(installed: Path, repository: Path) -> None:
    """`trainbeacon runbook` needs no checkout and no network."""
    done = subprocess.run(
        [sys.executable, "-m", "trainbeacon", "runbook", "TrainingStalled"],
        env={"PYTHONPATH": str(installed), "PYTHONWARNINGS": "error", "PATH": "/usr/bin:/bin"},
        cwd=installed,
        capture_output=True,
        text=True,
    )
    expected = (repository / "prometheus/runbooks/TrainingStalled.md").read_text()
    assert (0, expected, "") == (done.returncode, done.stdout, done.stderr)
