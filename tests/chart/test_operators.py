"""The chart as operators use it: as a part, over upgrades, under odd names, with values that overlap."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    REPOSITORY,
    SCENARIOS,
    Object,
    containers,
    named,
    objects_in,
    of_kind,
    pod_templates,
    render,
    render_text,
    sample_job,
)
from tests.chart.schemas import problems
from trainbeacon._version import __version__

VALUES = Path(__file__).parent / "values"
GITOPS = REPOSITORY / "deploy/k8s/gitops"
EVERYTHING = (
    "--set=notify.enabled=true,sampleJob.enabled=true,sampleJob.pods=2,tests.prometheusUrl=http://x:9090",
    "--set=alertmanagerConfig.enabled=true,alertmanagerConfig.namespaces={ml}",
    "--set=networkPolicy.enabled=true,networkPolicy.trainingNamespaces={ml}",
)


# As a part of another chart


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """A chart that has ours as a part, under the condition that Helm's manual shows."""
    shutil.copytree(CHART, tmp_path / "charts/trainbeacon")
    part = {"name": "trainbeacon", "version": ">=0.0.0-0", "condition": "trainbeacon.enabled"}
    about = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [part]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about))
    return tmp_path


def test_part_of_a_chart_has_a_condition(platform: Path, helm: str) -> None:
    """`trainbeacon.enabled` is a value like any other: true installs the same objects, false none."""
    (platform / "values.yaml").write_text("trainbeacon: {enabled: true}\n")
    of_part = render(helm, chart=platform)
    assert of_part == render(helm)
    (platform / "values.yaml").write_text("trainbeacon: {enabled: false}\n")
    assert [] == render(helm, "--set=global.x=1", chart=platform)
    assert [] == render(helm, "--set=enabled=false", *EVERYTHING)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_part_of_a_chart_takes_the_same_values(platform: Path, helm: str, scenario: Path) -> None:
    """What the values do to the chart by itself they do to it as a part, nulls included."""
    own = yaml.safe_load(scenario.read_text()) or {}
    (platform / "values.yaml").write_text(yaml.safe_dump({"trainbeacon": {"enabled": True, **own}}))
    options = () if own else ("--set=global.scenario=defaults",)  # rendered text is kept by its options
    rendered = render(helm, *options, f"--set=global.of={scenario.stem}", chart=platform)
    assert _by_name(rendered) == _by_name(render(helm, "--values", scenario))


def _by_name(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    return {
        (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects
    }


# Values that are missing


@pytest.mark.parametrize(
    "null",
    [
        "podMonitor",
        "podMonitor.node",
        "podMonitor.node.ranks",
        "podMonitor.limits",
        "prometheusRule.alertLabels",
        "prometheusRule",
        "prometheusRule.groups",
        "join",
        "join.portNumber",
        "join.label",
        "image",
        "image.tag",
        "notify.receivers",
        "notify.port",
        "web",
        "web.tls",
        "web.tls.authority",
        "sampleJob.image",
        "operator",
        "dashboards",
        "dashboards.labels",
        "dashboards.labels.grafana_dashboard",
        "dashboards.annotations.grafana_folder",
        "networkPolicy.monitoringNamespaceSelector",
        "networkPolicy.monitoringNamespaceSelector.matchLabels",
        "networkPolicy.monitoringNamespaceSelector.matchLabels.team",
        "notify.nodeSelector.gpu",
        "commonLabels.team",
        "commonLabels",
        "nameOverride",
        "tests",
        "extraObjects",
        "enabled",
    ],
)
def test_empty_key_is_as_if_not_given(helm: str, null: str) -> None:
    """A key without a value is a null, which takes helm's default away; the chart's default comes back."""
    on = ("--set=notify.enabled=true,sampleJob.enabled=true", EVERYTHING[-1])
    assert render(helm, *on) == render(helm, f"--set={null}=null", *on)


def test_empty_selector_lets_nobody_else_in(helm: str) -> None:
    """A selector without a condition would be every namespace: it is the default one instead."""
    empty = "matchLabels={},networkPolicy.monitoringNamespaceSelector.matchExpressions=[]"
    options = ("--set-json", f"networkPolicy.monitoringNamespaceSelector.{empty}")
    assert render(helm, *EVERYTHING) == render(helm, *options, *EVERYTHING)


def test_large_numbers_of_a_values_file_are_whole(helm: str, tmp_path: Path) -> None:
    """Helm takes numbers of a file for floats, and from a million on writes them as 1e+06: no integer."""
    given = {
        "join": {"fsGroup": 1_000_660_000},  # as OpenShift gives them out
        "podMonitor": {"limits": {"samples": 2_000_000, "targets": 1_500_000}},
        "sampleJob": {"enabled": True, "seconds": 86_400_000},
        "notify": {"enabled": True, "deadlineSeconds": 1_000_000},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given))
    objects = render(helm, "--values", tmp_path / "values.yaml")
    found = {one["metadata"]["name"]: problems(one, "1.33") for one in objects}
    assert {} == {name: said for name, said in found.items() if said}
    monitor = named(objects, "PodMonitor", "trainbeacon")["spec"]
    assert (2_000_000, 1_500_000) == (monitor["sampleLimit"], monitor["targetLimit"])
    pod = sample_job(objects)["spec"]["template"]["spec"]
    assert "1000660000" == str(pod["securityContext"]["fsGroup"])
    assert "--seconds=86400000" in pod["containers"][0]["command"]
    (bridge,) = [
        one["data"]["notify.yml"] for one in of_kind(objects, "ConfigMap") if "notify.yml" in one["data"]
    ]
    assert "deadline_seconds: 1000000\n" in bridge


def test_null_takes_a_limit_away(helm: str) -> None:
    """Within resources a null means what it means everywhere in helm."""
    off = "notify.enabled=true,notify.resources.limits=null"
    (notify,) = of_kind(render(helm, "--set", off), "Deployment")
    assert ["requests"] == list(notify["spec"]["template"]["spec"]["containers"][0]["resources"])


def test_reused_values_of_an_older_chart_render(helm: str, tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` keeps values that lack what a later chart added: it renders as new."""
    old = tmp_path / "chart"
    shutil.copytree(CHART, old)
    values = yaml.safe_load((old / "values.yaml").read_text())
    for section, name in (("podMonitor", "histograms"), ("image", "digest"), ("podMonitor", "limits")):
        del values[section][name]
    del values["namespaceOverride"], values["enabled"]
    (old / "values.yaml").write_text(yaml.safe_dump(values))
    assert render(helm, *EVERYTHING) == render(helm, *EVERYTHING, chart=old)


# Labels from several sides


def test_overlapping_labels_stand_once_and_the_users_win(helm: str) -> None:
    """No key stands twice (the loader of these tests refuses that), and a given label replaces ours."""
    objects = render(helm, "--values", VALUES / "overlaps.yml")
    assert {"ml-platform"} == {one["metadata"]["labels"]["app.kubernetes.io/part-of"] for one in objects}
    monitor = named(objects, "PodMonitor", "trainbeacon")
    assert ("kps", "2026") == tuple(
        monitor["metadata"]["labels"][name] for name in ("release", "app.kubernetes.io/version")
    )
    dashboards = [
        one["metadata"]["labels"] for one in of_kind(objects, "ConfigMap") if "-dashboard-" in str(one)
    ]
    assert {("yes", "graphs")} == {(one["grafana_dashboard"], one["team"]) for one in dashboards}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_selectors_find_the_pods_that_are_made(helm: str, scenario: Path) -> None:
    """Whatever labels the user adds: each Service and Deployment matches the labels of its own pods."""
    objects = render(helm, "--values", scenario)
    pods = [pod["metadata"]["labels"] for one in objects for pod in pod_templates(one)]
    for one in of_kind(objects, "Deployment"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for one in of_kind(objects, "Service"):
        if "batch.kubernetes.io/job-name" not in one["spec"]["selector"]:  # which the cluster adds
            assert [True] == [True for labels in pods if one["spec"]["selector"].items() <= labels.items()]


def test_kustomize_takes_every_scenario(helm: str, kubectl: str, tmp_path: Path) -> None:
    """kustomize, which Flux renders with too, reads what helm wrote and finds every object."""
    for scenario in SCENARIOS:
        text = render_text(helm, "--values", scenario)
        wanted = objects_in(text)
        if not wanted:
            continue
        (tmp_path / "all.yaml").write_text(text)
        (tmp_path / "kustomization.yaml").write_text("resources: [all.yaml]\n")
        done = subprocess.run([kubectl, "kustomize", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, f"{scenario.name}: {done.stderr}"
        assert len(wanted) == len(re.findall(r"^kind: ", done.stdout, re.MULTILINE))


def test_kustomize_builds_the_example(kubectl: str) -> None:
    """The example has every manifest, with the label that the operator selects by, and its patch applied."""
    manifests = sorted((REPOSITORY / "deploy/k8s/manifests").glob("*-*.yaml"))
    built = _kustomized(kubectl, GITOPS)
    assert len(manifests) == len(built)
    selected = [one for one in built if one["apiVersion"].startswith("monitoring.coreos.com")]
    assert {"kps"} == {one["metadata"]["labels"]["release"] for one in selected}
    monitor = named(built, "PodMonitor", "trainbeacon")
    assert ["kueue.x-k8s.io/queue-name"] == monitor["spec"]["podTargetLabels"]
    assert {"trainbeacon-notify"} == {
        one["metadata"]["name"] for one in _kustomized(kubectl, REPOSITORY / "deploy/k8s/manifests/notify")
    }


def _kustomized(kubectl: str, folder: Path) -> list[Object]:
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return objects_in(done.stdout)


def test_flux_finds_the_chart_and_helm_takes_its_values(helm: str, tmp_path: Path) -> None:
    """The release's path is the chart's, its tag this version's, and its values render."""
    source, release = yaml.safe_load_all((GITOPS / "flux.yaml").read_text())
    assert {"tag": f"v{__version__}"} == source["spec"]["ref"]
    chart = release["spec"]["chart"]["spec"]
    assert CHART == REPOSITORY / chart["chart"]
    assert source["metadata"]["name"] == chart["sourceRef"]["name"]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(release["spec"]["values"]))
    objects = render(helm, "--values", tmp_path / "values.yaml", release=release["spec"]["releaseName"])
    assert ["nlp", "vision"] == [
        one["metadata"]["namespace"] for one in of_kind(objects, "AlertmanagerConfig")
    ]


# Upgrades


def _next_version(tmp_path: Path) -> Path:
    """The chart as a later version would be, with another image and another line in its pods."""
    chart = tmp_path / "later"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "0.2.0", "appVersion": "0.2.0"}))
    return chart


@pytest.mark.parametrize(
    "change",
    [
        "",
        "sampleJob.seconds=60",
        "image.tag=other",
        "commonLabels.team=ml",
        "sampleJob.pods=3",
        "join.fsGroup=7",
        "sampleJob.resources.limits.memory=3Gi",
        "web.tls.enabled=true",
        "join.portNumber=9999",
    ],
)
def test_upgrade_changes_no_field_that_cannot_be_changed(helm: str, tmp_path: Path, change: str) -> None:
    """A Job's pods and completions, a selector, a Service's address: the same, or under another name."""
    before = _immutable(render(helm, *EVERYTHING))
    options = (f"--set={change}",) if change else ()
    for after in (
        _immutable(render(helm, *EVERYTHING, *options)),
        _immutable(render(helm, *EVERYTHING, *options, chart=_next_version(tmp_path))),
    ):
        assert {name: before[name] for name in before.keys() & after.keys()} == {
            name: after[name] for name in before.keys() & after.keys()
        }
        assert ("Deployment", "trainbeacon-notify") in before.keys() & after.keys()


def _immutable(objects: list[Object]) -> dict[tuple[str, str], object]:
    picked = {
        "Job": ("template", "selector", "completions", "completionMode"),
        "Deployment": ("selector",),
        "Service": ("clusterIP",),
    }
    return {
        (one["kind"], one["metadata"]["name"]): [one["spec"].get(field) for field in picked[one["kind"]]]
        for one in objects
        if one["kind"] in picked
    }


def test_chart_version_alone_starts_no_new_pods(helm: str, tmp_path: Path) -> None:
    """A later chart with the same images leaves the sample and the bridge running."""
    pinned = ("--set=image.tag=v1,sampleJob.image.tag=v1", *EVERYTHING)
    before, after = (
        {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] in ("Job", "Deployment")}
        for objects in (render(helm, *pinned), render(helm, *pinned, chart=_next_version(tmp_path)))
    )
    assert before == after


# Names


@pytest.mark.parametrize(
    "release",
    ["123", "1.5", "true", "null", "1e3", "0x10", "no", "1-2.3", "a.b", "ml.trainbeacon.prod", "x" * 53],
)
def test_any_release_name_gives_objects_that_a_cluster_takes(helm: str, release: str) -> None:
    """Numbers, words that YAML takes for other things, dots and length: names and labels stay texts."""
    objects = render(helm, *EVERYTHING, release=release)
    found = {f"{one['kind']}/{one['metadata']['name']}": problems(one, "1.33") for one in objects}
    assert {} == {name: said for name, said in found.items() if said}
    for one in objects:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", one["metadata"]["name"]), one["metadata"]
        assert release == one["metadata"]["labels"]["app.kubernetes.io/instance"]
    assert len(f"{sample_job(objects)['metadata']['name']}-999") <= 63  # the host name of a pod


@pytest.mark.parametrize(
    ("one", "other"), [("x" * 45 + "a", "x" * 45 + "b"), ("a.b", "a-b"), ("1a", "r1a"), ("y" * 40, "y" * 41)]
)
def test_releases_whose_names_are_alike_share_no_object(helm: str, one: str, other: str) -> None:
    """Two releases in one namespace, whose names differ past what fits or in what is changed."""
    first, second = (
        {(found["kind"], found["metadata"]["name"]) for found in render(helm, *EVERYTHING, release=release)}
        for release in (one, other)
    )
    assert set() == first & second


def test_namespace_and_digest_are_everywhere(helm: str) -> None:
    """`namespaceOverride` moves all that has no namespace of its own, and a digest decides over a tag."""
    objects = render(helm, "--values", VALUES / "pinned.yml")
    assert {"observability", "ml"} == {one["metadata"]["namespace"] for one in objects}
    digest = yaml.safe_load((VALUES / "pinned.yml").read_text())["image"]["digest"]
    images = {
        container["image"] for one in objects for pod in pod_templates(one) for container in containers(pod)
    }
    assert {f"trainbeacon:0.1.0@{digest}", f"trainbeacon-demo:0.1.0@{digest}"} == images
    config = named(objects, "AlertmanagerConfig", "trainbeacon")
    (url,) = {one["url"] for found in config["spec"]["receivers"] for one in found.get("webhookConfigs", ())}
    assert url.startswith("http://trainbeacon-notify.observability.svc:")
    assert "123" == render(helm, "--set-string=namespaceOverride=123")[0]["metadata"]["namespace"]


# Maps that are replaced


def test_given_maps_replace_ours(helm: str) -> None:
    """A selector, a receiver or a label of the user's stands alone: helm would add ours to them."""
    objects = render(helm, "--values", VALUES / "pinned.yml")
    sources = [
        peer["namespaceSelector"]
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"]["ingress"]
        for peer in rule.get("from", ())
        if "namespaceSelector" in peer
    ]
    assert [{"matchLabels": {"team": "observability"}}] * 2 == sources
    (bridge,) = [
        one["data"]["notify.yml"] for one in of_kind(objects, "ConfigMap") if "notify.yml" in one["data"]
    ]
    assert {"team", "owner"} == yaml.safe_load(bridge)["receivers"].keys()
    only = render(helm, "--set=notify.enabled=true,notify.receivers.owner.format=text")
    (bridge,) = [
        one["data"]["notify.yml"] for one in of_kind(only, "ConfigMap") if "notify.yml" in one["data"]
    ]
    assert {"owner"} == yaml.safe_load(bridge)["receivers"].keys()
    for one in of_kind(objects, "ConfigMap"):
        assert "grafana_dashboard" not in one["metadata"]["labels"]


def test_histograms_are_the_users_choice(helm: str) -> None:
    """By default nothing is said of histograms, so that Prometheus' own settings decide."""
    (monitor,) = of_kind(render(helm), "PodMonitor")
    names = {"convertClassicHistogramsToNHCB", "scrapeClassicHistograms"}
    assert not names & monitor["spec"].keys()
    monitor = named(render(helm, "--values", VALUES / "pinned.yml"), "PodMonitor", "trainbeacon")
    assert dict.fromkeys(names, True) == {name: monitor["spec"][name] for name in names}


def test_nothing_listens_on_ipv4_only(helm: str) -> None:
    """Agent and bridge listen on both families, and Services take what the cluster has."""
    objects = render(helm, *EVERYTHING)
    arguments = [
        part
        for one in objects
        for pod in pod_templates(one)
        for container in containers(pod)
        for part in (*container.get("args", ()), *container.get("command", ()))
    ]
    assert "::" in arguments
    assert "0.0.0.0" not in " ".join(arguments)
    assert {"PreferDualStack"} == {one["spec"]["ipFamilyPolicy"] for one in of_kind(objects, "Service")}
