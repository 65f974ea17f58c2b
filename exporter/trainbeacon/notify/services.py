"""Who takes a message: the robots that are ours, and everything else that Apprise knows."""

from __future__ import annotations

import logging

from . import robots
from .message import Message

log = logging.getLogger("trainbeacon.notify")


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
    sender = apprise.Apprise(asset=asset)
    if not sender.add(url):
        log.error("an address of the scheme %r is none that Apprise knows", url.partition(":")[0][:20])
        return False
    return bool(
        sender.notify(body=message.body, title=message.title, notify_type=message.kind, body_format=format)
    )
