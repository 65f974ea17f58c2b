"""The settings of `trainbeacon notify`: what is wrong is said with its place, value and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainbeacon.notify.settings import MOST_RECEIVERS, Receiver, Settings, SettingsError, addresses


def written(folder: Path, text: str) -> str:
    path = folder / "notify.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_receiver_needs_only_its_file(tmp_path: Path) -> None:
    """Everything else has a default that DingTalk's limits allow."""
    settings = Settings.load(written(tmp_path, "receivers: {team: {urls_file: /run/secrets/team}}"))
    assert {"team": Receiver(name="team", urls_file="/run/secrets/team")} == settings.receivers
    assert settings.receivers["team"].messages_per_minute < 20


def test_every_setting_is_taken(tmp_path: Path) -> None:
    """What the file says is what is done."""
    text = (
        "deadline_seconds: 40\ngrafana_url: https://g.example/\nreceivers:\n  on-call:\n    urls_file: /a\n"
        "    format: html\n"
        "    messages_per_minute: 3\n    coalesce_seconds: 0\n    longest_text: 999\n"
    )
    expected = Receiver(
        name="on-call",
        urls_file="/a",
        format="html",
        messages_per_minute=3,
        coalesce_seconds=0,
        longest_text=999,
    )
    assert Settings(
        receivers={"on-call": expected}, deadline_seconds=40, grafana_url="https://g.example"
    ) == Settings.load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["holds no mapping", "receivers:"]),
        ("receivers: {}", ["has 0 entries", f"1 to {MOST_RECEIVERS}"]),
        ("receivers: {a: {}}", ["receivers.a.urls_file is missing"]),
        ("receivers: {a b: {urls_file: x}}", ["receivers.a b", "letters, digits"]),
        (
            "receivers: {a: {urls_file: x, format: markdwon}}",
            ["receivers.a.format = 'markdwon'", "markdown?"],
        ),
        (
            "receivers: {a: {urls_file: x, mesages_per_minute: 3}}",
            ["mesages_per_minute", "messages_per_minute?"],
        ),
        ("receivers: {a: {urls_file: x, messages_per_minute: 0}}", ["= 0", "from 1 to 6000"]),
        ("deadline_seconds: 1\nreceivers: {a: {urls_file: x}}", ["deadline_seconds = 1", "from 5 to 300"]),
        (
            "grafana_url: grafana\nreceivers: {a: {urls_file: x}}",
            ["grafana_url = 'grafana'", "https://grafana.example.org"],
        ),
        ("receivers: [", ["is not valid YAML"]),
    ],
)
def test_mistakes_are_named_with_their_fix(tmp_path: Path, text: str, parts: list[str]) -> None:
    """An operator corrects the file from the message alone."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(written(tmp_path, text))
    assert [] == [part for part in parts if part not in str(caught.value)]


def test_addresses_are_not_taken_from_the_settings(tmp_path: Path) -> None:
    """Settings end in config maps and in git: an address there is refused, and not shown."""
    with pytest.raises(SettingsError, match="urls_file") as caught:
        Settings.load(written(tmp_path, "receivers: {a: {url: dingtalk://hush@token}}"))
    assert "hush" not in str(caught.value)


def test_addresses_come_from_the_file_as_it_is_now(tmp_path: Path) -> None:
    """A rotated secret needs no restart; comments and empty lines are none."""
    path = tmp_path / "team"
    receiver = Receiver(name="team", urls_file=str(path))
    path.write_text("# on call\njson://a\n\n  json://b \n", encoding="utf-8")
    assert ["json://a", "json://b"] == addresses(receiver)
    path.write_text("json://c\n", encoding="utf-8")
    assert ["json://c"] == addresses(receiver)


@pytest.mark.parametrize("content", [None, b"# nothing\n", b"\xff\xfe"])
def test_a_file_without_addresses_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty or no text at all: the message names receiver and file."""
    path = tmp_path / "team"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"receivers\.team\.urls_file = .*team"):
        addresses(Receiver(name="team", urls_file=str(path)))


def test_a_password_in_the_address_of_grafana_is_refused_and_not_shown(tmp_path: Path) -> None:
    """It would stand in every message."""
    text = "grafana_url: https://me:hush@g\nreceivers: {a: {urls_file: x}}"
    with pytest.raises(SettingsError, match="password") as caught:
        Settings.load(written(tmp_path, text))
    assert "hush" not in str(caught.value)
