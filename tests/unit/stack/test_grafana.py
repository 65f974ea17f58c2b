"""Grafana, as far as it can be tried without its server: what it is started with is read back."""

from __future__ import annotations

import configparser
from pathlib import Path

import yaml

from trainbeacon.stack.bundle import bundle_dir
from trainbeacon.stack.up import grafana


def installed(folder: Path, name: str = "grafana") -> Path:
    """Grafana as its archive unpacks: programs, and its own files beside them."""
    program = folder / "bin" / name
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (folder / "conf").mkdir()
    (folder / "conf/defaults.ini").touch()
    return program


def test_it_is_found_by_either_name(tmp_path: Path) -> None:
    """Grafana's program has a new name and an old one; without either there is none."""
    new, old = installed(tmp_path / "new"), installed(tmp_path / "old", "grafana-server")
    assert [str(new), "server"] == grafana.find(str(new.parent))
    assert [str(old)] == grafana.find(str(old.parent))
    assert grafana.find(str(tmp_path)) is None
    assert tmp_path / "new" == grafana.home_of(str(new))


def test_it_has_data_source_and_dashboards_and_no_account(tmp_path: Path) -> None:
    """Whoever opens it sees the dashboards at once, and can change nothing."""
    options = grafana.options(tmp_path, bundle_dir(), 3456, "http://127.0.0.1:9999", 5.0)
    assert [f"--config={tmp_path}/grafana.ini"] == options
    settings = configparser.ConfigParser()
    settings.read(tmp_path / "grafana.ini")
    assert ("127.0.0.1", "3456") == (settings["server"]["http_addr"], settings["server"]["http_port"])
    assert ("true", "Viewer") == (
        settings["auth.anonymous"]["enabled"],
        settings["auth.anonymous"]["org_role"],
    )
    assert "true" == settings["security"]["disable_initial_admin_creation"]
    provisioning = Path(settings["paths"]["provisioning"])
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert ("http://127.0.0.1:9999", "5s") == (source["url"], source["jsonData"]["timeInterval"])
    (provider,) = yaml.safe_load((provisioning / "dashboards/trainbeacon.yml").read_text())["providers"]
    assert list(Path(provider["options"]["path"]).glob("*.json"))
