"""The environment of what is started to be recorded without code: `trainbeacon run`, and `TRAINBEACON=1`."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: Says that a process is to be recorded whatever it trains with.
SWITCH = "TRAINBEACON"


def autostart_wanted() -> bool:
    """Whether `TRAINBEACON=1` is set, and `TRAINBEACON_ENABLED=0` is not."""
    off = os.environ.get("TRAINBEACON_ENABLED", "1").strip().lower() in ("0", "false", "no", "off")
    return os.environ.get(SWITCH, "").strip().lower() in ("1", "true", "yes", "on") and not off


def to_record(settings: Mapping[str, str], hook: str) -> dict[str, str]:
    """The environment of this process with what its children need to be recorded too.

    Args:
        settings: names of settings with their texts, set as `TRAINBEACON_*`.
        hook: folder of the site hook, put first on PYTHONPATH.
    """
    made = dict(os.environ)
    made.update({f"TRAINBEACON_{name.upper()}": value for name, value in settings.items()})
    made[SWITCH] = "1"
    paths = [hook, *(path for path in made.get("PYTHONPATH", "").split(os.pathsep) if path and path != hook)]
    made["PYTHONPATH"] = os.pathsep.join(paths)
    return made


def export(environment: Mapping[str, str]) -> None:
    """Make it that of this process, for the children that the script starts."""
    os.environ.update(environment)
