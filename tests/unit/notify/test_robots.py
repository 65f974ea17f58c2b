"""The robots against stand-ins on loopback that check what the services document: form, signature, answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from trainbeacon.notify import robots
from trainbeacon.notify.message import Message

MESSAGE = Message("FIRING run gpt: TrainingStalled", "**[critical]** rank 3", "failure")
SECRET, TOKEN = "SEC+abc", "tok/1"
Answer = dict[str, Any]


class Service(ThreadingHTTPServer):
    """Takes what `judge` finds good, and answers as the services do: with status 200, whatever happened."""

    def __init__(self, judge: Callable[[str, dict[str, list[str]], Answer], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.judge = judge
        self.got: list[Answer] = []
        self.status = 200
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def robot(self, scheme: str) -> dict[str, robots.Robot]:
        return {scheme: replace(robots.ROBOTS[scheme], origin=f"http://127.0.0.1:{self.server_port}")}


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = urlsplit(self.path)
        self.server.got.append(content)
        body = json.dumps(self.server.judge(asked.path, parse_qs(asked.query), content)).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output for what fails."""


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[..., Answer]], Service]]:
    made: list[Service] = []

    def make(judge: Callable[..., Answer]) -> Service:
        made.append(Service(judge))
        return made[-1]

    yield make
    for service in made:
        service.shutdown()
        service.server_close()


def signed(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()


def dingtalk(path: str, query: dict[str, list[str]], content: Answer) -> Answer:
    """What DingTalk documents: the secret signs timestamp and secret; an hour of grace."""
    if ("/robot/send", [TOKEN]) != (path, query.get("access_token")):
        return {"errcode": 300001, "errmsg": "token is not exist"}
    timestamp = query["timestamp"][0]
    fresh = abs(time.time() * 1000 - int(timestamp)) < 3_600_000
    if not fresh or signed(SECRET, f"{timestamp}\n{SECRET}") != query["sign"][0]:
        return {"errcode": 310000, "errmsg": "sign not match"}
    return {"errcode": 0, "errmsg": "ok"}


def feishu(path: str, query: dict[str, list[str]], content: Answer) -> Answer:
    """What Feishu documents: timestamp and secret are the key, and nothing is signed with it."""
    if path != "/open-apis/bot/v2/hook/tok%2F1":
        return {"code": 19001, "msg": "param invalid: incoming webhook access token invalid"}
    if signed(f"{content['timestamp']}\n{SECRET}", "") != content["sign"]:
        return {"code": 19021, "msg": "sign match fail or timestamp is not within one hour from current time"}
    return {"code": 0, "msg": "success", "data": {}}


def wecom(path: str, query: dict[str, list[str]], content: Answer) -> Answer:
    if ("/cgi-bin/webhook/send", [TOKEN]) != (path, query.get("key")):
        return {"errcode": 93000, "errmsg": "invalid webhook url"}
    return {"errcode": 0, "errmsg": "ok"}


JUDGES = {"dingtalk": dingtalk, "feishu": feishu, "lark": feishu, "wecombot": wecom}


@pytest.mark.parametrize("scheme", JUDGES)
@pytest.mark.parametrize("format", ["markdown", "text"])
def test_a_signed_message_is_taken(serving: Callable[..., Service], scheme: str, format: str) -> None:
    """Token and signature are those that the service works out itself; a secret may hold any character."""
    service = serving(JUDGES[scheme])
    secret = "" if scheme == "wecombot" else "SEC%2Babc@"
    assert robots.post(f"{scheme}://{secret}tok%2F1", MESSAGE, format, service.robot(scheme))
    assert MESSAGE.title in json.dumps(service.got[0])
    assert "rank 3" in json.dumps(service.got[0])


@pytest.mark.parametrize("scheme", JUDGES)
def test_a_refusal_with_status_200_is_one(
    serving: Callable[..., Service], scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The services refuse in the body: that is no success, and the log has the reason without the secrets."""
    service = serving(JUDGES[scheme])
    assert robots.post(f"{scheme}://hush@silent", MESSAGE, "markdown", service.robot(scheme)) is False
    assert "refused a message: code" in caplog.text
    assert "hush" not in caplog.text
    assert "silent" not in caplog.text


def test_phones_are_mentioned_in_the_text(serving: Callable[..., Service]) -> None:
    """DingTalk rings whom both the list and the text name."""
    service = serving(dingtalk)
    url = "dingtalk://SEC%2Babc@tok%2F1/13800000000/13900000000"
    assert robots.post(url, MESSAGE, "markdown", service.robot("dingtalk"))
    assert ["13800000000", "13900000000"] == service.got[0]["at"]["atMobiles"]
    assert service.got[0]["markdown"]["text"].endswith("@13800000000 @13900000000")


def test_forms_are_those_of_the_services(serving: Callable[..., Service]) -> None:
    """Feishu's card has a coloured title; WeCom's markdown keeps within its 4,096 bytes, in whole letters."""
    service = serving(feishu)
    assert robots.post("feishu://SEC%2Babc@tok%2F1", MESSAGE, "markdown", service.robot("feishu"))
    card = service.got[0]["card"]
    assert ("red", "markdown") == (card["header"]["template"], card["elements"][0]["tag"])
    service = serving(wecom)
    long = Message("t", "火" * 5000, "info")
    assert robots.post("wecombot://tok%2F1", long, "markdown", service.robot("wecombot"))
    content = service.got[0]["markdown"]["content"]
    assert 4090 <= len(content.encode()) <= 4096
    assert "\ufffd" not in content


@pytest.mark.parametrize("answer", [{}, [], {"errcode": None}])
def test_an_answer_that_makes_no_sense_is_no_success(serving: Callable[..., Service], answer: Any) -> None:
    """A proxy's page with status 200 has not delivered anything."""
    service = serving(lambda *_: answer)
    assert robots.post("dingtalk://tok", MESSAGE, "text", service.robot("dingtalk")) is False


def test_a_service_that_is_away_is_no_success(
    serving: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused connection, status 500: false, in bounded time, and no secret in the log."""
    service = serving(dingtalk)
    service.status = 500
    assert robots.post("dingtalk://hush@silent", MESSAGE, "text", service.robot("dingtalk")) is False
    gone = {"dingtalk": replace(robots.ROBOTS["dingtalk"], origin="http://127.0.0.1:9")}
    assert robots.post("dingtalk://hush@silent", MESSAGE, "text", gone) is False
    assert "hush" not in caplog.text
    assert "silent" not in caplog.text


def test_other_addresses_are_left_to_apprise() -> None:
    """None means: not ours."""
    assert robots.post("json://localhost", MESSAGE, "text") is None
