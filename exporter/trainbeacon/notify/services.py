"""Who takes a message: the robots that are ours, and everything else that Apprise knows."""

from __future__ import annotations

import logging
import re
import threading
from functools import cache
from typing import Any

from . import robots
from .markup import STYLES
from .message import Message

log = logging.getLogger("trainbeacon.notify")

#: Of what a service takes, left for what Apprise's own conversion adds.
_USED = 0.8
#: Logs of libraries that may repeat an address; only a status is taken from them.
_LIBRARIES = ("apprise", "requests", "urllib3.connectionpool", "urllib3.util.retry")
_STATUS = re.compile(r"error=(\d{3})\b")


def post(url: str, message: Message, format: str) -> bool:
    """Hand a message to the service that an address names; whether it took it. Blocks for seconds.

    What goes wrong is logged without the address, which holds secrets.
    """
    taken = robots.post(url, message, format)
    return _post_with_apprise(url, message, format) if taken is None else taken


def _post_with_apprise(url: str, message: Message, format: str) -> bool:
    import apprise

    asset = apprise.AppriseAsset(app_id="TrainBeacon", app_desc="", app_url="", async_mode=False)
    asset.image_url_mask = asset.image_url_logo = ""  # no picture from elsewhere
    asset.http_redirects = False  # a message goes where it is sent, or nowhere
    sender = apprise.Apprise(asset=asset)
    scheme = url.partition("://")[0].lower()
    with _Overheard() as overheard:
        if not sender.add(url):
            named = f" of the scheme {scheme!r}" if scheme in _schemes() else ""
            log.error("an address%s is not one that Apprise can read", named)
            return False
        body = message.written(STYLES[format], _room(sender[0], message))
        taken = bool(
            sender.notify(body=body, title=message.title, notify_type=message.kind, body_format=format)
        )
    if not taken:
        log.warning("%s did not take a message%s", scheme, overheard.status)
    return taken


@cache
def _schemes() -> frozenset[str]:
    """The schemes that Apprise knows: anything else may be a secret in the wrong place."""
    import apprise

    services = apprise.Apprise().details()["schemas"]
    kinds = ("protocols", "secure_protocols")
    return frozenset(scheme for each in services for kind in kinds for scheme in each[kind] or ())


def _room(service: Any, message: Message) -> int:
    """Characters that a service takes besides the title."""
    longest = int(getattr(service, "body_maxlen", 0) or message.longest)
    return max(200, int(longest * _USED) - len(message.title))


class _Overheard(logging.Filter):
    """Keeps what libraries log from every handler while a message is sent, and the HTTP status of it."""

    def __init__(self) -> None:
        super().__init__()
        self.status = ""
        self._thread = threading.get_ident()

    def __enter__(self) -> _Overheard:
        for name in _LIBRARIES:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(self, *_error: object) -> None:
        for name in _LIBRARIES:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let no record pass: any may hold parts of the address."""
        found = _STATUS.search(record.getMessage())
        if found and threading.get_ident() == self._thread:
            self.status = f": HTTP status {found[1]}"
        return False
