"""What Alertmanager's own receivers write, rendered by amtool of every version at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.routes.test_routes import run
from trainbeacon.notify import wording
from trainbeacon.notify.webhook import Alert

Render = Callable[..., str]
CHANNELS = ["text", "slack", "markdown", "html"]
HOSTILE = "<!channel> [now](http://evil.example) **x** <b>b</b> <http://evil|x> @everyone `c`\n& \u202e"
DESCRIPTION = "Run gpt: rank 3 (host node-b, GPU 0) crashed after 51.93s, 7.731% of its time."


def alert(name: str = "TrainingRankLost", status: str = "firing", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, "run": "gpt", "severity": "critical", **labels},
        "annotations": {
            "summary": "A rank of the training is lost.",
            "description": DESCRIPTION,
            "action": "Look at that host.",
            "runbook_url": "https://example.org/TrainingRankLost.md",
        },
        "startsAt": "2026-01-02T03:04:05Z",
        "endsAt": "2026-01-02T03:14:05Z",
    }


def annotated(made: dict[str, Any], **annotations: str) -> dict[str, Any]:
    return {**made, "annotations": {**made["annotations"], **annotations}}


@pytest.fixture
def render(every_amtool: str, repository: Path, tmp_path: Path) -> Render:
    """A template over alerts, as a message of their group."""

    def rendered(text: str, *alerts: dict[str, Any], html: bool = False) -> str:
        common = dict(
            set.intersection(*(set(each["labels"].items()) for each in alerts)) if alerts else set[Any]()
        )
        firing = any(each["status"] == "firing" for each in alerts)
        data = {
            "status": "firing" if firing else "resolved",
            "externalURL": "http://am.example:9093",
            "alerts": alerts,
            "commonLabels": common,
        }
        (tmp_path / "data.json").write_text(json.dumps(data))
        done = run(
            every_amtool,
            "template",
            "render",
            f"--template.glob={repository}/alertmanager/templates/*.tmpl",
            f"--template.text={text}",
            f"--template.type={'html' if html else 'text'}",
            f"--template.data={tmp_path / 'data.json'}",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return rendered


def channel(render: Render, name: str, *alerts: dict[str, Any]) -> str:
    return render(f'{{{{ template "trainbeacon.{name}" . }}}}', *alerts, html=name == "html")


def test_title_names_fault_run_time_place_and_number(render: Render) -> None:
    """The worst fault, and among the worst the cause; a phone shows no more than this line."""
    alerts = [
        alert("TrainingInputBound", severity="warning"),
        alert("TrainingStalled"),
        alert("TrainingLossNotFinite", cluster="eu-1", namespace="nlp"),
    ]
    title = channel(render, "title", *alerts)
    assert "NaN in gpt (eu-1, nlp) since 03:04 UTC: rank 3, node-b (+2)" == title


def test_message_of_a_firing_alert(render: Render) -> None:
    """What happened, what to do first, links of this cluster, run and time, and who it is of."""
    made = alert(rank="3", cluster="eu-1", namespace="nlp", owner="ada")
    assert channel(render, "text", made).splitlines() == [
        "[critical] A rank of the training is lost.",
        "Run gpt: rank 3 (host node-b, GPU 0) crashed after 52 s, 8 % of its time.",
        "Do first: Look at that host.",
        "Dashboard: http://127.0.0.1:3000/d/trainbeacon-ranks?var-cluster=eu-1&var-namespace=nlp&var-run=gpt"
        "&var-rank=3&from=1767321245000&to=now",
        "Runbook: https://example.org/TrainingRankLost.md",
        "Silence: http://am.example:9093/#/silences/new?filter=%7Balertname%3D%22TrainingRankLost%22%2C"
        "cluster%3D%22eu-1%22%2Cnamespace%3D%22nlp%22%2Cowner%3D%22ada%22%2Crank%3D%223%22%2C"
        "run%3D%22gpt%22%2Cseverity%3D%22critical%22%7D",
        "critical, since 2026-01-02 03:04:05 UTC, owner ada, cluster eu-1, namespace nlp",
    ]


def test_message_of_an_end_says_what_closed_it(render: Render) -> None:
    """With the times, the place and the dashboard of that time; nothing to do, nothing to silence."""
    over = annotated(alert(status="resolved", rank="3"), closed="a later attempt is at work, at step 1200")
    assert (
        "RESOLVED: Rank lost in gpt, 03:04 to 03:14 UTC: rank 3, node-b\n"
        "Closed: a later attempt is at work, at step 1200\n"
        "Dashboard: http://127.0.0.1:3000/d/trainbeacon-ranks?var-run=gpt&var-rank=3"
        "&from=1767321245000&to=1767324245000"
    ) == channel(render, "text", over)
    assert "good" == channel(render, "color", over)
    for name in CHANNELS:
        text = channel(render, name, over)
        assert not re.search("Do first|silences", text)
        assert "a later attempt is at work, at step 1200" in text
        assert "trainbeacon-ranks?" in text


@pytest.mark.parametrize(
    ("closed", "start"),
    [
        ("", "No longer reported: Rank lost"),
        (" ", "No longer reported: Rank lost"),
        ("still dead after 24 h, no longer watched", "No longer watched: Rank lost"),
        ("given up after 24 h", "No longer watched: Rank lost"),
        ("Not known whether it is over: Prometheus was away.", "No longer reported: Rank lost"),
        ("Its ranks are reported as lost now.", "No longer reported: Rank lost"),
    ],
)
def test_an_end_that_is_not_known_is_not_called_resolved(closed: str, start: str, render: Render) -> None:
    """When Prometheus stops, alerts end as well: that is no good news, and not green."""
    over = annotated(alert(status="resolved"), closed=closed)
    assert channel(render, "title", over).startswith(start)
    assert "#808080" == channel(render, "color", over)
    assert "#2e7d32" not in channel(render, "html", over)
    assert (closed.strip() or "can no longer be seen") in channel(render, "text", over)


@pytest.mark.parametrize("name", CHANNELS)
def test_a_message_is_bounded_and_keeps_the_action(name: str, render: Render) -> None:
    """600 alerts with names and texts as long as they may be: what to do is reported, the rest is counted."""
    long = annotated(
        alert(run="训" * 128, owner="火" * 128, cluster="c" * 60, namespace="n" * 63),
        description="x & y " * 900,
        summary="s" * 900,
        action="Look at that host." + " And then" * 400,
    )
    text = channel(render, name, *[long] * 600)
    assert "Look at that host." in text
    assert "and 597 more." in text
    assert len(text) <= (4096 if name == "text" else 12_000)  # Telegram takes 4,096


def test_cuts_are_between_letters(render: Render) -> None:
    """No half emoji, no letter without its accent, no half escape, wherever the limit falls."""
    letters = [
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "e\u0301",
        "\U0001f44d\U0001f3fd",
        "火",
        "&",
        "<",
    ]
    raw = "".join(letters) + "y" * 30
    every = [annotated(alert(), description="x" * room + raw) for room in range(40, 56)]
    template = '{{ template "trainbeacon.say" (stringSlice "slack" "50" .Annotations.description) }}'
    lines = render(f'{{{{ range .Alerts }}}}{template}{{{{ "\\n" }}}}{{{{ end }}}}', *every).splitlines()
    escaped = [*letters[:4], "&amp;", "&lt;", *"y" * 30]
    whole = {"".join(escaped[:count]) + "…" for count in range(len(escaped))}
    assert 16 == len(lines)
    assert set() == {line.lstrip("x") for line in lines} - whole
    assert 4 < len({line.lstrip("x") for line in lines})


@pytest.mark.parametrize("field", ["run", "owner", "description", "summary", "action", "closed"])
def test_texts_of_a_run_are_no_markup(field: str, render: Render) -> None:
    """Nothing that a run, an owner or an exception is called makes a mention, a link or a tag."""
    made = alert(status="resolved" if field == "closed" else "firing")
    odd = alert(**{field: HOSTILE}) if field in ("run", "owner") else annotated(made, **{field: HOSTILE})
    title, slack = channel(render, "title", odd), channel(render, "slack", odd)
    markdown, html = channel(render, "markdown", odd), channel(render, "html", odd)
    for text in (title, slack, markdown, html):
        assert not re.search(r"<!channel|<http://evil|<b>b", text)
    for text in (title, slack, markdown, html, channel(render, "text", odd)):
        assert not re.search(r"now\\?\]\(|@everyone|\u202e", text)
    assert not re.search(r"[<>\[\]`*|\n]", title)
    assert not re.search(r"(?<!\\)\[now(?<!\\)\]\(|\*\*x(?<!\\)\*", markdown)
    assert re.findall(r"<([^|>]*)\|", slack) == re.findall(
        r"<(http://(?:127|am)[^|>]*|https://example[^|>]*)\|", slack
    )


def test_links_hold_whatever_a_run_is_called(render: Render) -> None:
    """A name with spaces, quotes and signs is the same name behind the link; in a mail as well."""
    made = alert(run='a b+c"&d|e)<')
    quoted = "var-run=a%20b%2Bc%22%26d%7Ce%29%3C&"
    for name in ("text", "slack", "markdown"):
        assert quoted in channel(render, name, made)
    assert quoted.lower().replace("&", "&amp;") in channel(render, "html", made).lower()


@pytest.mark.parametrize("name", CHANNELS)
def test_an_alert_of_somebody_else_is_reported_as_well(name: str, render: Render) -> None:
    """Without any annotation or label of ours."""
    other = {"status": "firing", "labels": {"alertname": "KubePodCrash"}, "startsAt": "2026-01-02T03:04:05Z"}
    assert "Kube pod crash since 03:04 UTC" == channel(render, "title", other)
    assert "trainbeacon-fleet?" in channel(render, name, other)


def test_the_bridge_says_the_same(render: Render, repository: Path) -> None:
    """Line and dashboard of every shipped alert, firing and over, are those of `trainbeacon notify`."""
    places = [
        ("firing", {}),
        ("firing", {"rank": "4"}),
        ("resolved", {"cluster": "c", "gpu": "1", "hostname": "h"}),
    ]
    alerts = [alert(name, status, **labels) for name in _shipped(repository) for status, labels in places]
    one = '{{ template "trainbeacon.line" . }} {{ template "trainbeacon.url" . }}'
    text = render(f'{{{{ range .Alerts }}}}{one}{{{{ "\\n" }}}}{{{{ end }}}}', *alerts)
    read = [_read(each) for each in alerts]
    urls = [wording.dashboard_url("http://127.0.0.1:3000", each) for each in read]
    assert [
        f"{wording.title([each])} {url}" for each, url in zip(read, urls, strict=True)
    ] == text.splitlines()


def test_the_bridge_puts_the_same_first(render: Render) -> None:
    """Both take the same alert for the worst, in whatever order Alertmanager lists them."""
    alerts = [
        alert("TrainingInputBound", severity="warning"),
        alert("TrainingGpuMemoryErrors", severity="warning"),
        alert("TrainingStalled"),
        alert("TrainingLossNotFinite"),
        alert("TrainingRunFailed"),
        alert("TrainingGpuLost", gpu="1"),
    ]
    for count in range(1, 7):
        expected = wording.title(wording.in_order(map(_read, alerts[:count])))
        assert expected == channel(render, "title", *alerts[:count])


NUMBERS = {
    "51.93s, 9.6s, 0.31%.": "52 s, 10 s, 0.3 %.",
    "7.731% 99.5% 100%": "8 % 100 % 100 %",
    "12.4% 39.5% 109.7s": "12 % 40 % 110 s",
    "350.2ms 269.5us 2m 3s lr-0.05s v1.25s 12.5 times": "350 ms 270 us 2m 3s lr-0.05s v1.25s 12.5 times",
}


def test_numbers_are_rounded_for_people(render: Render) -> None:
    """Whole seconds and percents, as the bridge rounds them."""
    every = [annotated(alert(), description=said) for said in NUMBERS]
    template = '{{ template "trainbeacon.say" (stringSlice "text" "500" .Annotations.description) }}'
    lines = render(f'{{{{ range .Alerts }}}}{template}{{{{ "\\n" }}}}{{{{ end }}}}', *every).splitlines()
    assert list(NUMBERS.values()) == lines == list(map(wording.for_people, NUMBERS))


def _shipped(repository: Path) -> list[str]:
    files = repository.glob("prometheus/rules/alerts/*.yml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return sorted({rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule})


def _read(made: dict[str, Any]) -> Alert:
    return Alert(
        made["status"] == "firing", made["labels"], made["annotations"], made["startsAt"], made["endsAt"]
    )
