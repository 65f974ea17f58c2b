"""Values that cannot work are refused with the fix, and what is left out or must be checked is said."""

from __future__ import annotations

import pytest

from tests.chart.rendering import CHART, of_kind, refusal, render, render_text, run_helm


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            "podMonitor.interval=5s",
            "podMonitor.scrapeTimeout=10s is above podMonitor.interval=5s: the operator would leave the"
            " monitor out without a word. Set podMonitor.scrapeTimeout to at most 5s.",
        ),
        ("podMonitor.scrapeTimeout=1m", "podMonitor.scrapeTimeout=1m is above podMonitor.interval=15s"),
        ("podMonitor.interval=900ms,podMonitor.scrapeTimeout=1s", "scrapeTimeout=1s is above"),
        ("podMonitor.interval=1m,podMonitor.scrapeTimeout=1m1s", "scrapeTimeout=1m1s is above"),
        ("podMonitor.interval=0s,podMonitor.scrapeTimeout=0s", "neither can be zero"),
        ("podMonitor.interval=5s1m", "interval"),
        ("podMonitor.limits.labelValueLength=256", "labelValueLength"),
        ("podMonitor.limits.labels=10", "labels"),
        ("prometheusRule.alertLabels.my-team=ml", "my-team"),
        ("prometheusRule.alertLabels.__name__=x", "__name__"),
        ("prometheusRule.alertLabels.alertname=x", "alertname"),
        ("prometheusRule.alerts.TrainingStalled.labels.a\\.b=x", "a.b"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "commonLabels.app.kubernetes.io/name: our selectors"),
        ("commonLabels.trainbeacon\\.github\\.io/scrape=x", "our selectors go by this label"),
        ("commonLabels.team=a b", "team"),
        ("operator.labels.-x=y", "-x"),
        ("image.digest=latest", "digest"),
        ("nameOverride=My_App", "nameOverride"),
        ("prometheusRule.runbookUrl=wiki/runbooks", "runbookUrl"),
        ("dashboards.gpuHourPrice=-1", "gpuHourPrice"),
        ("dashboards.gpuHourPrice=two", "gpuHourPrice"),
        ("notify.grafanaUrl=https://me:secret@grafana", "grafanaUrl"),
        (
            "alertmanagerConfig.enabled=true,notify.enabled=true,alertmanagerConfig.matcherStrategy=None"
            ",alertmanagerConfig.namespaces={a,b}",
            "every message would come 2 times",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(helm: str, values: str, said: str) -> None:
    """Helm fails with the setting, its value and what to do, also where the kind is not even rendered."""
    assert said in refusal(helm, "--set", values)
    done = run_helm(helm, "template", "trainbeacon", CHART, "--set", values)
    assert said in done.stderr


@pytest.mark.parametrize(
    "good", ["interval=10s", "interval=1m,podMonitor.scrapeTimeout=60s", "scrapeTimeout=15s"]
)
def test_a_timeout_up_to_the_interval_is_taken(helm: str, good: str) -> None:
    """Equal is allowed, however it is written."""
    assert of_kind(render(helm, f"--set=podMonitor.{good}"), "PodMonitor")


def test_template_says_what_auto_left_out(helm: str) -> None:
    """`helm template` knows no cluster and shows no notes: comments stand where monitor and rules would."""
    text = render_text(helm, operator=False)
    comments = [line for line in text.splitlines() if line.startswith("# LEFT OUT")]
    assert ["# LEFT OUT: PodMonitor", "# LEFT OUT: PrometheusRule"] == [
        line.split(".")[0] for line in comments
    ]
    assert "helm template --api-versions=monitoring.coreos.com/v1/PodMonitor" in text
    assert "LEFT OUT" not in render_text(helm)
    off = "--set=podMonitor.enabled=false,prometheusRule.enabled=false"
    assert "LEFT OUT" not in render_text(helm, off, operator=False)


def _notes(helm: str, *options: str) -> str:
    done = run_helm(helm, "install", "trainbeacon", CHART, "--dry-run=client", *options)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout[done.stdout.index("NOTES:") :].split())


def test_notes_follow_the_matcher_strategy(helm: str) -> None:
    """Under each strategy the notes say which alerts each object sees, and what the Alertmanager must say."""
    on = "--set=alertmanagerConfig.enabled=true,notify.enabled=true"
    strategy = f"{on},alertmanagerConfig.matcherStrategy"
    own = _notes(helm, f"{on},alertmanagerConfig.namespaces={{nlp,vision}}")
    assert "sees the alerts of its own namespace only: nlp, vision." in own
    everything = _notes(helm, f"{strategy}=None")
    assert "in monitoring takes the alerts of all namespaces" in everything
    assert "alertmanagerConfigMatcherStrategy: {type: None}" in everything
    third = _notes(helm, f"{strategy}=OnNamespaceExceptForAlertmanagerNamespace")
    assert "{type: OnNamespaceExceptForAlertmanagerNamespace}, and run in monitoring" in third
    assert "type: None" not in third
    elsewhere = _notes(
        helm,
        f"{strategy}=OnNamespaceExceptForAlertmanagerNamespace",
        "--set=alertmanagerConfig.namespaces={nlp}",
    )
    assert "There is one in: nlp." in elsewhere
    assert "Jobs in other namespaces than these have no route." in elsewhere


def test_notes_say_what_was_not_made(helm: str) -> None:
    """Monitor without rules and rules without monitor are named, and why."""
    both = "podMonitor.enabled=true,prometheusRule.enabled=true"
    assert "NO RULES WERE MADE" in _notes(helm, f"--set={both},prometheusRule.enabled=false")
    assert "NO MONITOR WAS MADE" in _notes(helm, f"--set={both},podMonitor.enabled=false")
    assert "WERE MADE" not in _notes(helm, f"--set={both}")
    off = _notes(helm, "--set=podMonitor.enabled=false,prometheusRule.enabled=false")
    assert "NO MONITOR AND NO RULES WERE MADE: they are switched off." in off
