"""The text that people get: which run, what happened, what to do first; in every style, within bounds."""

from __future__ import annotations

import html.parser
import re

import pytest

from tests.unit.notify.payloads import alert, annotated, notification
from trainbeacon.notify.markup import FEISHU, HTML, MARKDOWN, PLAIN_MARKDOWN, STYLES, TEXT, Style
from trainbeacon.notify.message import compose

GRAFANA = "https://grafana.example"
EVERY_STYLE = {**STYLES, "plain_markdown": PLAIN_MARKDOWN, "feishu": FEISHU}
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one letter of five characters
FLAG = "\U0001f1e9\U0001f1ea"


def test_one_alert_says_all_that_is_needed() -> None:
    """Title with fault, run, time and place; then what happened, what to do first, links, and the facts."""
    made = alert(cluster="eu-1", namespace="nlp", owner="ada")
    message = compose([notification(made)], "text", 3500, GRAFANA)
    assert "Hang in gpt (eu-1, nlp) since 12:34 UTC: rank 3, node-7" == message.title
    lines = message.body.splitlines()
    assert [
        "[critical] The training makes no steps.",
        "Run gpt: rank 3 (host node-7, GPU 0) has not joined.",
        "Do first: Look at rank 3.",
        "Dashboard: https://grafana.example/d/trainbeacon-ranks?var-cluster=eu-1&var-namespace=nlp&var-run=gpt"
        "&from=1772366696000&to=now",
        "Runbook: https://example.org/runbooks/TrainingStalled.md",
    ] == lines[:5]
    assert lines[5].startswith("Silence: http://alertmanager.example:9093/#/silences/new?filter=%7B")
    assert "critical, since 2026-03-01 12:34:56 UTC, owner ada, cluster eu-1, namespace nlp" == lines[6]
    assert "failure" == message.kind


def test_the_worst_comes_first_and_what_is_over_last() -> None:
    """Whoever reads only the first lines of a long message reads the cause of the others."""
    alerts = [
        alert("TrainingLossSpikes", "resolved"),
        alert("TrainingStraggler", severity="warning"),
        alert("TrainingStalled"),
        alert("TrainingGpuLost", gpu="3"),
    ]
    message = compose([notification(*alerts[:2]), notification(*alerts[2:])], "text", 3500)
    faults = re.findall(r"(GPU lost|Hang|Straggler|Loss spikes) in", message.title + message.body)
    assert ["GPU lost", "Hang", "Straggler", "Loss spikes"] == faults


def test_several_runs_are_counted_in_the_title() -> None:
    """A title stays short, and says of how much it speaks."""
    alerts = [alert("TrainingRankLost", run=f"run{number}") for number in range(5)]
    title = compose([notification(*alerts)], "text", 3500).title
    assert "Rank lost in run0 since 12:34 UTC: rank 3, node-7 (+4 in 4 more runs)" == title


def test_what_closed_an_incident_is_said() -> None:
    """The reason, the times, the place and a link to that time; no action, and nothing to silence."""
    over = annotated(alert(status="resolved"), closed="the ranks are at work again, at step 1200")
    message = compose([notification(over)], "text", 3500, GRAFANA)
    assert "RESOLVED: Hang in gpt, 12:34 to 12:50 UTC: rank 3, node-7" == message.title
    assert "Closed: the ranks are at work again, at step 1200" in message.body.splitlines()
    assert "var-run=gpt&from=1772366696000&to=1772370000000" in message.body
    assert not re.search("Do first|silence", message.body)
    assert "success" == message.kind


@pytest.mark.parametrize(
    ("closed", "title"),
    [
        ("", "No longer reported: Hang"),
        (" ", "No longer reported: Hang"),
        ("still dead after 24 h, no longer watched", "No longer watched: Hang"),
        ("given up after 24 h", "No longer watched: Hang"),
        ("Not known whether it is over: Prometheus was away.", "No longer reported: Hang"),
        ("Its ranks are reported as lost now.", "No longer reported: Hang"),
    ],
)
def test_an_end_that_is_not_known_is_not_called_resolved(closed: str, title: str) -> None:
    """A watcher that lost sight, or gave up, is no good news, and not green."""
    message = compose([notification(annotated(alert(status="resolved"), closed=closed))], "text", 3500)
    assert message.title.startswith(title)
    assert "info" == message.kind
    assert (closed.strip() or "can no longer be seen") in message.body


@pytest.mark.parametrize("style", EVERY_STYLE)
@pytest.mark.parametrize("longest", [200, 500, 1000, 3500])
def test_a_message_is_bounded_and_keeps_the_action(style: str, longest: int) -> None:
    """600 alerts with long texts: never more than the limit, what to do is in it, and the rest is counted."""
    made = annotated(alert(), description=f"{FAMILY}训练没有进展 <b>& " * 200, summary="s" * 900)
    message = compose([notification(*[made] * 600)], "text", longest, GRAFANA)
    body = message.written(EVERY_STYLE[style], longest)
    assert len(body) <= longest
    assert "Look at rank 3." in body
    assert re.search(r"and 59\d more", body)


@pytest.mark.parametrize("style", EVERY_STYLE.values(), ids=EVERY_STYLE)
def test_cuts_are_between_letters(style: Style) -> None:
    """Whatever the room: no half emoji, no accent without its letter, no half escape."""
    letters = [FAMILY, "e\u0301", FLAG, "<", "&", "火", "[", "\U0001f44d\U0001f3fd", "x"]
    written = [style.text(letter) for letter in letters]
    prefixes = {"…", *("".join(written[:count]) + "…" for count in range(1, 10)), "".join(written)}
    cuts = {style.cut("".join(letters), room) for room in range(1, 80)}
    assert set() == cuts - prefixes
    assert 5 < len(cuts)


class _Tags(html.parser.HTMLParser):
    """Whether every tag is whole and closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "br"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


LONG_LINK = "https://r/" + "y" * 200


def test_html_is_whole_at_every_length() -> None:
    """Telegram refuses a text with half a tag for good."""
    odd = annotated(alert(), summary="<i>" * 300, description="a&b" * 700, runbook_url=LONG_LINK)
    for longest in range(200, 3500, 61):
        body = compose([notification(odd, odd)], "html", longest, GRAFANA).body
        assert [] == _Tags(body).open
        assert body.rfind("<") < body.rfind(">") or "<" not in body
        assert not re.search(r"&(?!amp;|lt;|gt;|quot;|#x27;|middot;)", body)


@pytest.mark.parametrize("style", [MARKDOWN, PLAIN_MARKDOWN, FEISHU], ids=["markdown", "plain", "feishu"])
def test_links_are_whole_at_every_length(style: Style) -> None:
    """A link has its end, or is not there."""
    odd = annotated(alert(run="训" * 60), description="[" * 900, runbook_url=LONG_LINK)
    for longest in range(200, 3500, 61):
        body = compose([notification(odd, odd)], "markdown", longest, GRAFANA).written(style, longest)
        whole = re.findall(r"(?<!\\)\[(?:Dashboard|Runbook|Silence)\]\(https?://[^\s()]+\)", body)
        assert len(whole) == body.count("](http")


HOSTILE = (
    "[now](http://evil.example) **x** <!channel> <@U1> <at id=all></at> <b>b</b> @everyone `c` a\nb\u202e"
)


@pytest.mark.parametrize("field", ["run", "owner", "description", "summary", "action", "closed"])
@pytest.mark.parametrize("style", EVERY_STYLE)
def test_texts_of_a_run_are_no_markup(style: str, field: str) -> None:
    """Nothing that a run, an owner or an exception is called makes a link, a tag, a mention or a new line."""
    made = alert(status="resolved" if field == "closed" else "firing")
    odd = alert(**{field: HOSTILE}) if field in ("run", "owner") else annotated(made, **{field: HOSTILE})
    message = compose([notification(odd)], "text", 3500, GRAFANA)
    body = message.written(EVERY_STYLE[style], 3500)
    for text in (message.title, body):
        assert not re.search(r"now\\?\]\(|@everyone|@U1|\u202e", text)  # also where a text should be plain
        assert style == "text" or not re.search(r"<(!channel|at |b>b)", text)
    assert "<" not in message.title
    assert "\n" not in message.title
    assert not re.search(r"a\s*\nb", message.written(TEXT, 3500))


def test_html_shows_a_text_as_it_is() -> None:
    """A tag in a text is read as its letters."""
    odd = annotated(alert(), description="<script>x</script> a & b")
    assert "&lt;script&gt;x&lt;/script&gt; a &amp; b" in compose([notification(odd)], "html", 3500).body
    assert HTML.strong("<") == "<b>&lt;</b>"


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "https://x/" + "y" * 3000, 'https://x/")[a](http://e']
)
def test_only_web_addresses_become_links(url: str) -> None:
    """An annotation cannot smuggle in a script, a second link, or one that no service takes."""
    body = compose([notification(annotated(alert(), runbook_url=url))], "markdown", 3500).body
    assert "javascript" not in body
    assert "yyy" not in body
    assert body.count("](http") == body.count("[Runbook](http") + body.count("[Silence](http")
