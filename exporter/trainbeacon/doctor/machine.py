"""The shell and the machine: settings, versions, web configuration, NVML."""

from __future__ import annotations

import datetime
import os
import re
import ssl
import stat
from collections.abc import Iterator

from trainbeacon._version import __version__
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.doctor.context import Context
from trainbeacon.doctor.results import Check, Result, SkippedError, fail, warn

_DAYS_TO_RENEW = 14


def _settings(context: Context) -> Iterator[Result]:
    try:
        config = Config.load({})
    except ConfigError as error:
        text = str(error)
        named = re.findall(r"\bTRAINBEACON_[A-Z_]+\b", text)
        yield fail("TB101", text, f"unset {named[0]}" if named else "mend that setting")
        return
    if not config.enabled:
        yield warn(
            "TB102", "TRAINBEACON_ENABLED is off here: nothing is recorded", "unset TRAINBEACON_ENABLED"
        )
    if config.serve == "off" and not any(each.url for each in context.served):
        yield warn(
            "TB103",
            "TRAINBEACON_SERVE is off and no agent serves: nobody can scrape",
            "unset TRAINBEACON_SERVE",
        )


def _versions(context: Context) -> Iterator[Result]:
    for each, page in context.exporters():
        found = re.search(r'^trainbeacon_build_info\{[^}]*version="([^"]*)"', page.text, re.MULTILINE)
        if found and found[1] != __version__:
            yield warn(
                "TB104",
                f"{each.url} is of version {found[1]}, this command of {__version__}",
                f"pip install trainbeacon=={__version__} in the environment of the run",
            )


def _web_config(context: Context) -> Iterator[Result]:
    try:
        file = Config.load({}).web_config
    except ConfigError as error:
        raise SkippedError("the settings cannot be read: TB101") from error
    if not file:
        raise SkippedError("no web configuration is set (TRAINBEACON_WEB_CONFIG)")
    from trainbeacon.exporter.http.webconfig import read

    if (mode := _mode(file)) & 0o004:
        yield warn("TB106", f"{file} has mode {mode:04o}: everybody can read its hashes", f"chmod 640 {file}")
    try:
        found = read(file)
    except ConfigError as error:
        yield fail("TB105", str(error), f"promtool check web-config {file}, and mend what it names")
        return
    for path in found.files:
        if path.endswith("key") or "key" in os.path.basename(path):
            if (mode := _mode(path)) & 0o004:
                yield warn(
                    "TB106", f"{path} has mode {mode:04o}: everybody can read the key", f"chmod 640 {path}"
                )
        elif path != os.path.abspath(file):
            yield from _certificate(path, context.clock())
    for text in found.warnings:
        yield warn("TB108", text, "see docs/security.md")


def _certificate(path: str, now: float) -> Iterator[Result]:
    try:
        decoded = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
        ends = ssl.cert_time_to_seconds(decoded["notAfter"])
    except (OSError, ssl.SSLError, KeyError, ValueError):
        return  # no certificate: an authority's file may hold several
    days = (ends - now) / 86400
    when = datetime.datetime.fromtimestamp(ends, datetime.timezone.utc).date()
    if days < 0:
        yield fail("TB107", f"{path} was valid until {when}", "renew it; it is read again while serving")
    elif days < _DAYS_TO_RENEW:
        yield warn("TB107", f"{path} is valid until {when} only", "renew it; it is read again while serving")


def _mode(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0


def _nvml(context: Context) -> Iterator[Result]:
    pages = list(context.exporters())
    if not pages:
        raise SkippedError("no exporter answers here")
    for each, page in pages:
        found = re.search(
            r'^trainbeacon_nvml_state\{[^}]*state="(\w+)"[^}]*\} 1(?:\.0)?$', page.text, re.MULTILINE
        )
        state = found[1] if found else ""
        if state in ("", "ok") or (
            state in ("no_library", "no_driver") and not os.path.exists("/dev/nvidiactl")
        ):
            continue
        yield warn(
            "TB109", f"{each.url}: NVML is {state}: no GPU metrics", _NVML_FIX.get(state, "nvidia-smi")
        )


_NVML_FIX = {
    "no_library": "install the driver's libnvidia-ml1 of the same version, in the container too",
    "no_driver": "nvidia-smi, and load the driver that it asks for",
    "no_permission": "give the exporter's user /dev/nvidia* (NVIDIA_DRIVER_CAPABILITIES=utility)",
    "failed": "nvidia-smi, and read the exporter's log",
}

CHECKS = (
    Check(
        "settings",
        {
            "TB101": "A setting cannot be used",
            "TB102": "Recording is switched off",
            "TB103": "Serving is switched off and nobody else serves",
        },
        _settings,
    ),
    Check("versions", {"TB104": "Exporter and command are of different versions"}, _versions),
    Check(
        "web config",
        {
            "TB105": "The web configuration cannot be used",
            "TB106": "A secret can be read by everybody",
            "TB107": "A certificate has ended or is about to",
            "TB108": "The web configuration protects less than it seems to",
        },
        _web_config,
    ),
    Check("nvml", {"TB109": "NVML cannot be read"}, _nvml),
)
