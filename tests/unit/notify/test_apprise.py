"""What Apprise hands to chat services, caught on its way out: the services themselves are not reached."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.unit.notify.payloads import alert, annotated, notification
from tests.unit.notify.test_message import HOSTILE
from trainbeacon.notify.message import compose
from trainbeacon.notify.services import post

#: An address of each, with the field of its request that holds the text, and how long that may be.
SERVICES = {
    "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js": ("content", 2000),
    "tgram://123456789:abcdefghijklmnopqrstuvwxyz012345678/12345": ("text", 4096),
    "mmost://127.0.0.1/3ccdd113474722377935511fc85d3dd4": ("text", 4000),
    "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general": ("attachments", 35_000),
}


class Taken:
    """What a service answers that took a message."""

    status_code = 200
    content = b"ok"
    text = "ok"
    headers: dict[str, str] = {}  # noqa: RUF012 - as requests has it

    def json(self) -> dict[str, Any]:
        return {"ok": True}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    import requests

    found: list[dict[str, Any]] = []

    def request(*_: object, **given: Any) -> Taken:
        found.append(given.get("json") or json.loads(given["data"]))
        return Taken()

    monkeypatch.setattr(requests.Session, "request", request)
    return found


@pytest.mark.parametrize("format", ["markdown", "text", "html"])
@pytest.mark.parametrize("url", SERVICES, ids=lambda url: url.partition(":")[0])
def test_a_message_is_whole_and_harmless(url: str, format: str, sent: list[dict[str, Any]]) -> None:
    """Within the service's limit, with what to do in it, and without a link or mention out of a name."""
    field, longest = SERVICES[url]
    made = annotated(alert(run=HOSTILE, owner=HOSTILE), description=f"{HOSTILE} {'x ' * 900}")
    assert post(url, compose([notification(*[made] * 50)], format, 3500, "https://g"), format)
    assert 1 == len(sent)
    found = sent[0][field]
    text = found if isinstance(found, str) else "".join(f"{one['title']}\n{one['text']}" for one in found)
    assert len(text) <= longest
    assert "Look at rank 3." in text
    assert not re.search(r"now\\?\]\(|<!channel|<@U1|@everyone|<http://evil", text)
    assert "tgram" not in url or "<b>b<" not in text  # of these, Telegram alone reads HTML
    links = re.findall(r"\[(?:Dashboard|Runbook|Silence)\]\(https?://[^\s()]+\)", text)
    assert text.count("](") == len(links)
