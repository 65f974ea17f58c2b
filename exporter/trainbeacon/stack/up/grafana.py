"""Grafana with the shipped dashboards, where it is on the PATH."""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from trainbeacon.stack.rendering import seconds

_HOMES = ("/usr/share/grafana", "/usr/local/share/grafana", "/opt/homebrew/opt/grafana/share/grafana")


def find(path: str | None = None) -> list[str] | None:
    """The command that starts it, without its options; None where it is not on the PATH."""
    for name, more in (("grafana", ["server"]), ("grafana-server", [])):
        if program := shutil.which(name, path=path):
            return [program, *more]
    return None


def home_of(program: str) -> Path | None:
    """The folder with Grafana's own files: of an archive beside its programs, else of a package."""
    beside = Path(program).resolve().parent.parent
    for folder in (beside, *map(Path, _HOMES)):
        if (folder / "conf" / "defaults.ini").is_file():
            return folder
    return None


def options(folder: Path, bundle: Path, port: int, prometheus: str, interval: float) -> list[str]:
    """Write the configuration into the folder; returns the options that lead there.

    Anybody on this machine may look and nobody can change anything: there is no account.
    """
    provisioning = folder / "provisioning"
    _provision(provisioning, bundle, prometheus, interval)
    settings: Mapping[str, Mapping[str, str]] = {
        "server": {"http_addr": "127.0.0.1", "http_port": str(port)},
        "paths": {
            "data": str(folder / "data"),
            "logs": str(folder / "logs"),
            "plugins": str(folder / "plugins"),
            "provisioning": str(provisioning),
        },
        "security": {"disable_initial_admin_creation": "true"},
        "auth": {"disable_login_form": "true"},
        "auth.anonymous": {"enabled": "true", "org_role": "Viewer"},
        "analytics": {"reporting_enabled": "false", "check_for_updates": "false"},
        "dashboards": {"default_home_dashboard_path": str(bundle / "grafana" / "dashboards" / "fleet.json")},
        "log": {"mode": "console"},
    }
    config = configparser.ConfigParser(interpolation=None)
    config.read_dict(settings)
    with (folder / "grafana.ini").open("w") as file:
        config.write(file)
    return [f"--config={folder / 'grafana.ini'}"]


def _provision(target: Path, bundle: Path, prometheus: str, interval: float) -> None:
    """The shipped provisioning with the paths and the address of this machine."""
    shipped = bundle / "grafana" / "provisioning"
    for path in shipped.rglob("*.yml"):
        content = yaml.safe_load(path.read_text())
        for provider in content.get("providers", ()):
            provider["options"]["path"] = str(bundle / "grafana" / "dashboards")
        for source in content.get("datasources", ()):
            source["url"] = prometheus
            source["jsonData"]["timeInterval"] = seconds(interval)
        written = target / path.relative_to(shipped)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(yaml.safe_dump(content, sort_keys=False))
