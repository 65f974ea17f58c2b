"""Group robots of DingTalk, Feishu, Lark and WeCom, with signatures, and with the answer read.

These are ours and not Apprise's, since it (2.2) encodes DingTalk's signature twice, knows none for
Feishu and Lark, and takes every answer of status 200 for a success, while these services say in the
body that they refused. The addresses are written as Apprise writes them:

    dingtalk://SECRET@TOKEN/PHONE/...   dingtalk://TOKEN
    feishu://SECRET@TOKEN               lark://SECRET@TOKEN
    wecombot://KEY

Forms and signatures are those that the services document for their custom robots.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from .markup import FEISHU, PLAIN_MARKDOWN, TEXT, Style
from .message import Message

log = logging.getLogger("trainbeacon.notify")

TIMEOUT_SECONDS = 8.0
_MOST_ANSWER_BYTES = 64 * 1024
#: What the services take: WeCom bytes of a markdown text, DingTalk bytes, Feishu bytes of a request.
_WECOM_BYTES, _DINGTALK_BYTES, _FEISHU_BYTES = 4096, 18_000, 18_000
_COLOURS = {"failure": "red", "warning": "orange", "info": "blue", "success": "green"}


@dataclass(frozen=True)
class Address:
    """What an address says: whom to reach, and the key that signs."""

    token: str
    secret: str
    targets: tuple[str, ...]

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `scheme://SECRET@TOKEN/TARGET/...`; the case of both is kept."""
        rest = urlsplit(url)
        secret, _, token = rest.netloc.rpartition("@")
        targets = tuple(unquote(part) for part in rest.path.split("/") if part)
        return cls(unquote(token), unquote(secret), targets)


@dataclass(frozen=True)
class Robot:
    """How one service is spoken to.

    Attributes:
        origin: where it is.
        request: path and JSON of a message, from address, message, format and Unix time.
        code: name of the field that is 0 in an answer that accepts.
    """

    origin: str
    request: Callable[[Address, Message, str, float], tuple[str, Mapping[str, Any]]]
    code: str

    def send(self, address: Address, message: Message, format: str) -> str:
        """Send one message. Returns why it was refused, empty if it was not; blocks for seconds.

        A redirection is a refusal: the message would go, with its token, to who knows whom.

        Raises:
            OSError, HTTPException, ValueError: the service cannot be reached, or answers no HTTP.
        """
        path, content = self.request(address, message, format, time.time())
        request = Request(  # noqa: S310 - the origin is ours
            f"{self.origin}{path}",
            data=json.dumps(content, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json; charset=utf-8"},
        )
        try:
            with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
                body = answer.read(_MOST_ANSWER_BYTES)
        except HTTPError as error:
            return f"HTTP status {error.code}"
        return _without(address, self._refusal(body))

    def _refusal(self, body: bytes) -> str:
        try:
            answer = json.loads(body)
            code = answer[self.code]
        except (ValueError, KeyError, TypeError):
            return "the answer is not understood"
        text = str(answer.get("errmsg") or answer.get("msg") or "")[:200]
        return "" if code == 0 else f"code {code}: {text}"


class _NoRedirection(HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        """Follow none: urllib then raises HTTPError with its status."""


_OPENER = build_opener(_NoRedirection)


def _without(address: Address, text: str) -> str:
    """A service's own words, without the parts of the address that it may repeat."""
    for secret in sorted((address.token, address.secret, *address.targets), key=len, reverse=True):
        text = text.replace(secret, "...") if secret else text
    return text


def post(url: str, message: Message, format: str, robots: Mapping[str, Robot] | None = None) -> bool | None:
    """Hand a message to a robot: whether it took it, None if the address is of none. Blocks for seconds."""
    scheme = url.partition("://")[0].lower()
    robot = (ROBOTS if robots is None else robots).get(scheme)
    if robot is None:
        return None
    try:
        refusal = robot.send(Address.parse(url), message, format)
    except (OSError, ValueError, HTTPException) as error:  # the text of each may hold the address
        refusal = f"{type(error).__name__}: not reached"
    if refusal:
        log.warning("%s refused a message: %s", scheme, refusal)
    return not refusal


# The services


def _dingtalk(address: Address, message: Message, format: str, now: float) -> tuple[str, dict[str, Any]]:
    path = f"/robot/send?access_token={quote(address.token, safe='')}"
    if address.secret:
        timestamp = str(round(now * 1000))
        sign = signature(address.secret.encode(), f"{timestamp}\n{address.secret}".encode())
        path += f"&timestamp={timestamp}&sign={quote(sign, safe='')}"
    at = {"atMobiles": list(address.targets), "isAtAll": False}
    if format != "markdown":
        text = _within(message, TEXT, "", _DINGTALK_BYTES)
        return path, {"msgtype": "text", "text": {"content": text}, "at": at}
    mentions = " ".join(f"@{phone}" for phone in address.targets)  # who is not in the text is not notified
    parts = (_within(message, PLAIN_MARKDOWN, "### ", _DINGTALK_BYTES), mentions)
    markdown = {"title": message.title, "text": "\n\n".join(filter(None, parts))}
    return path, {"msgtype": "markdown", "markdown": markdown, "at": at}


def _feishu(address: Address, message: Message, format: str, now: float) -> tuple[str, dict[str, Any]]:
    signed: dict[str, Any] = {}
    if address.secret:
        timestamp = str(int(now))
        signed = {"timestamp": timestamp, "sign": signature(f"{timestamp}\n{address.secret}".encode(), b"")}
    path = f"/open-apis/bot/v2/hook/{quote(address.token, safe='')}"
    if format != "markdown":
        text = {"text": _within(message, _FEISHU_TEXT, "", _FEISHU_BYTES)}
        return path, {**signed, "msg_type": "text", "content": text}
    card = {
        "header": {
            "title": {"tag": "plain_text", "content": message.title},
            "template": _COLOURS[message.kind],
        },
        "elements": [{"tag": "markdown", "content": message.written(FEISHU, _FEISHU_BYTES, _bytes)}],
    }
    return path, {**signed, "msg_type": "interactive", "card": card}


def _wecom(address: Address, message: Message, format: str, now: float) -> tuple[str, dict[str, Any]]:
    markdown = format == "markdown"
    kind, heading = ("markdown", "### ") if markdown else ("text", "")
    style, most = (PLAIN_MARKDOWN, _WECOM_BYTES) if markdown else (TEXT, _WECOM_BYTES // 2)
    path = f"/cgi-bin/webhook/send?key={quote(address.token, safe='')}"
    return path, {"msgtype": kind, kind: {"content": _within(message, style, heading, most)}}


def _within(message: Message, style: Style, heading: str, most: int) -> str:
    """Title and body in at most that many bytes."""
    head = f"{heading}{message.title}\n\n" if heading else f"{message.title}\n"
    return head + message.written(style, most - _bytes(head), _bytes)


def _bytes(text: str) -> int:
    return len(text.encode())


#: A text of Feishu's mentions by a tag.
_FEISHU_TEXT = replace(TEXT, escape=PLAIN_MARKDOWN.escape)


def signature(key: bytes, text: bytes) -> str:
    """HMAC-SHA256 in base64."""
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


ROBOTS: Mapping[str, Robot] = {
    "dingtalk": Robot("https://oapi.dingtalk.com", _dingtalk, "errcode"),
    "feishu": Robot("https://open.feishu.cn", _feishu, "code"),
    "lark": Robot("https://open.larksuite.com", _feishu, "code"),
    "wecombot": Robot("https://qyapi.weixin.qq.com", _wecom, "errcode"),
}
