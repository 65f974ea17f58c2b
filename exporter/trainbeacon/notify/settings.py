"""The settings of the bridge: one YAML file, and one file of addresses a receiver.

    receivers:
      ml-oncall:
        urls_file: /run/secrets/ml-oncall   # Apprise URLs, one a line
        messages_per_minute: 18             # DingTalk takes 20

Addresses hold secrets (tokens, signing keys), so they are taken from files only and shown nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from trainbeacon import catalogue
from trainbeacon.config.validation import BadValueError, Reader, choice, nearest, path, whole

#: Receivers of one bridge: its series are bounded by them.
MOST_RECEIVERS = catalogue.MOST_NOTIFY_RECEIVERS
FORMATS = ("markdown", "text", "html")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EXAMPLE = "receivers:\n  team:\n    urls_file: /run/secrets/team"


class SettingsError(ValueError):
    """Settings that cannot be used. The message names the setting, its value and the fix."""


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """Where the alerts that come to `/alerts/<name>` go.

    Attributes:
        urls_file: file of Apprise URLs, one a line, `#` begins a comment; read again when it changes.
        format: what the text is written in; Apprise converts it for services that take another.
        messages_per_minute: at most that many to each address; what comes beyond is put together.
        coalesce_seconds: how long a message waits for others to go along with it.
        longest_text: characters of a message; alerts beyond are counted in its last line.
    """

    name: str
    urls_file: str
    format: str = "markdown"
    messages_per_minute: int = 18
    coalesce_seconds: int = 2
    longest_text: int = 3500


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one bridge. Build them with `Settings.load`.

    Attributes:
        receivers: by name.
        deadline_seconds: after so long a request is refused, and Alertmanager tries again; less than the
            `group_interval` of its routes, which is as long as it waits.
        grafana_url: address of Grafana as people reach it; without one, messages link no dashboards.
    """

    receivers: Mapping[str, Receiver] = field(default_factory=dict)
    deadline_seconds: int = 25
    grafana_url: str = ""

    @classmethod
    def load(cls, path: str) -> Settings:
        """The settings in a YAML file. Raises SettingsError."""
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                content = yaml.safe_load(file)
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}. Give the path of a YAML file.") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        return cls.of(content, path)

    @classmethod
    def of(cls, content: object, where: str) -> Settings:
        """The settings in what a YAML file holds. Raises SettingsError."""
        top = _mapping(content, where)
        given = _read(top, _TOP, where, also=("receivers",))
        receivers = _mapping(top.get("receivers"), f"{where}: receivers")
        if not 1 <= len(receivers) <= MOST_RECEIVERS:
            raise SettingsError(
                f"{where}: receivers has {len(receivers)} entries. Give 1 to {MOST_RECEIVERS}:\n{_EXAMPLE}"
            )
        made = {str(name): _receiver(str(name), of, where) for name, of in receivers.items()}
        return cls(receivers=made, **given)


def addresses(receiver: Receiver) -> list[str]:
    """The Apprise URLs of a receiver, as its file has them now. Raises SettingsError."""
    where = f"receivers.{receiver.name}.urls_file = {receiver.urls_file!r}"
    try:
        with open(receiver.urls_file, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"{where} cannot be read: {reason}.") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise SettingsError(f"{where} holds no address. Write one Apprise URL a line.")
    return found


def _receiver(name: str, content: object, where: str) -> Receiver:
    where = f"{where}: receivers.{name}"
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{where} is no name for a receiver. Use letters, digits, '.', '_' and '-'.")
    found = _mapping(content, where)
    for inline in ("url", "urls"):
        if inline in found:
            raise SettingsError(
                f"{where}.{inline}: addresses hold secrets and are not taken from the settings. "
                "Write them into a file of their own and give its path as urls_file."
            )
    given = _read(found, _RECEIVER, where)
    if "urls_file" not in given:
        raise SettingsError(f"{where}.urls_file is missing. Give the file of Apprise URLs:\n{_EXAMPLE}")
    return Receiver(name=name, **given)


def _read(
    content: Mapping[str, object], readers: Mapping[str, Reader], where: str, also: tuple[str, ...] = ()
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in content.items():
        if name in also or value is None:
            continue
        if name not in readers:
            close = nearest(str(name), [*readers, *also])
            fix = f"Did you mean {close}?" if close else f"There are {', '.join([*readers, *also])}."
            raise SettingsError(f"{where}.{name}: there is no such setting. {fix}")
        try:
            given[name] = readers[name].check(value)
        except BadValueError as error:
            shown = "" if error.secret else f" = {value!r}"
            raise SettingsError(f"{where}.{name}{shown}: {error.problem}. {error.fix}") from None
    return given


def _mapping(content: object, where: str) -> Mapping[str, object]:
    if not isinstance(content, Mapping):
        raise SettingsError(f"{where} holds no mapping. Write:\n{_EXAMPLE}")
    return {str(name): value for name, value in content.items()}


def _web_url(value: object) -> str:
    fix = "Give the address that people open in a browser, as https://grafana.example.org."
    found = urlsplit(value) if isinstance(value, str) else None
    if found is None or found.scheme not in ("http", "https") or not found.hostname:
        raise BadValueError("it is not an address of the web", fix)
    if "@" in found.netloc:
        raise BadValueError("it holds a password, which every message would show", fix, secret=True)
    return str(value).rstrip("/")


def _whole(least: int, most: int) -> Reader:
    return whole(least, most, f"Give a whole number from {least} to {most}.")


_TOP: dict[str, Reader] = {"deadline_seconds": _whole(5, 300), "grafana_url": Reader(_web_url, _web_url)}
_RECEIVER: dict[str, Reader] = {
    "urls_file": path(),
    "format": choice(*FORMATS),
    "messages_per_minute": _whole(1, 6000),
    "coalesce_seconds": _whole(0, 60),
    "longest_text": _whole(200, 100_000),
}
