"""The chart under one values file a scenario: helm takes it, and a cluster would take what comes out."""

from __future__ import annotations

import base64
import gzip
import json
import re
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.certificates import Authority
from tests.chart.rendering import (
    CHART,
    REPOSITORY,
    SCENARIOS,
    containers,
    named,
    of_kind,
    pod_templates,
    refusal,
    render,
    render_text,
    run_helm,
    sample_job,
)
from tests.chart.schemas import VERSIONS, problems
from trainbeacon import catalogue
from trainbeacon._version import __version__
from trainbeacon.exporter.http.webconfig import WebConfigFile
from trainbeacon.notify.settings import Receiver, Settings

scenario = pytest.mark.parametrize("values", SCENARIOS, ids=lambda path: path.stem)


@scenario
def test_helm_lints_and_installs_it(helm: str, values: Path) -> None:
    """`lint --strict` has nothing to say, and a client-side installation ends with notes."""
    done = run_helm(helm, "lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_helm(helm, "install", "trainbeacon", CHART, "--dry-run=client", "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HOW A JOB JOINS" in done.stdout


@scenario
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_fit_the_schemas(helm: str, values: Path, version: str) -> None:
    """Every object is valid for that Kubernetes and for the operator, and no key is unknown to them."""
    objects = render(helm, "--values", values)
    found = {f"{one['kind']}/{one['metadata']['name']}": problems(one, version) for one in objects}
    assert {} == {name: said for name, said in found.items() if said}


def test_schemas_refuse_what_a_cluster_would() -> None:
    """A misspelt key, a wrong type and a wrong duration are found, in a core kind and in the operator's."""
    meta = {"metadata": {"name": "x"}}
    pod = {"apiVersion": "v1", "kind": "Pod", **meta}
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", **meta}
    for endpoint in ({"intervl": "15s"}, {"interval": "15 seconds"}, {"port": 9797}, {"scheme": "gopher"}):
        assert problems({**monitor, "spec": {"selector": {}, "podMetricsEndpoints": [endpoint]}}, "1.33")
    for container in ({"name": "a", "imag": "b"}, {"name": 1}, {"image": "b"}):
        assert problems({**pod, "spec": {"containers": [container]}}, "1.33")


@scenario
def test_cluster_without_the_operator_gets_no_foreign_kinds(helm: str, values: Path) -> None:
    """Where the operator is not installed, nothing of its kinds is made unless a value insists on it."""
    insists = yaml.safe_load(values.read_text()) or {}
    if insists.get("podMonitor", {}).get("enabled") is True or "alertmanagerConfig" in insists:
        return
    kinds = {one["apiVersion"] for one in render(helm, "--values", values, operator=False)}
    assert not [kind for kind in kinds if kind.startswith("monitoring.coreos.com")]


@scenario
def test_pods_are_restricted(helm: str, values: Path) -> None:
    """Every pod fits the restricted security standard, has requests and limits, and no token."""
    for pod in pod_templates(render(helm, "--values", values)):
        assert_restricted(pod)


def assert_restricted(pod: dict) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume]
    for container in containers(pod):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context.get("runAsUser", spec["securityContext"].get("runAsUser", 0)) > 0
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert not any(port.get("hostPort") for port in container.get("ports", ()))


def test_every_object_has_its_switch(helm: str) -> None:
    """With all switches off nothing is left."""
    off = Path(__file__).parent / "values/nothing.yml"
    assert [] == render(helm, "--values", off)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("podMonitr.enabled=true", "podMonitr"),
        ("podMonitor.intervall=15s", "intervall"),
        ("podMonitor.interval=often", "interval"),
        ("podMonitor.enabled=maybe", "enabled"),
        ("prometheusRule.alerts.TrainingStaled.enabled=false", "there is no such alert. The alerts are"),
        ("prometheusRule.groups.trainbeacon-live.enabled=false", "there is no such group. The groups are"),
        ("alertmanagerConfig.enabled=true", "alertmanagerConfig.namespaces is empty"),
        ("alertmanagerConfig.enabled=true,alertmanagerConfig.namespaces={ml}", "would go nowhere"),
        ("web.auth.enabled=true", "web.auth.users is empty"),
        ("web.auth.users.me=password", "users"),
    ],
)
def test_wrong_values_are_named(helm: str, value: str, said: str) -> None:
    """A key that does not exist, a value that cannot be, a name of no rule, a route to nowhere: refused."""
    assert said in refusal(helm, "--set", value)


def test_defaults_are_explained(repository: Path) -> None:
    """Each value has its place and its words in the schema, and the schema takes nothing else."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    _assert_explained(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "values")


def _assert_explained(schema: dict, value: object, where: str) -> None:
    assert schema.get("description"), where
    if "properties" in schema:
        assert schema["additionalProperties"] is False, where
        assert isinstance(value, dict), where
        assert value.keys() <= schema["properties"].keys(), where
        for name, part in schema["properties"].items():
            if name in value:
                _assert_explained(part, value[name], f"{where}.{name}")


def test_selection_labels_reach_what_the_operator_selects(helm: str) -> None:
    """The label that kube-prometheus-stack asks for is on monitor and rules, or it would see none of them."""
    objects = render(helm, "--values", Path(__file__).parent / "values/kube-prometheus-stack.yml")
    selected = [one for one in objects if one["apiVersion"].startswith("monitoring.coreos.com")]
    assert len(selected) > 5
    assert {"kube-prometheus-stack"} == {one["metadata"]["labels"].get("release") for one in selected}
    assert {"ml-platform"} == {one["metadata"]["labels"].get("team") for one in objects}


def test_notes_say_first_what_is_missing(helm: str) -> None:
    """Without a selection label the notes begin with it; without the operator, with that nothing was made."""
    command = (helm, "install", "trainbeacon", CHART, "--dry-run=client")
    assert "1. NO MONITOR AND NO RULES WERE MADE" in run_helm(*command).stdout
    forced = ("--set", "podMonitor.enabled=true,prometheusRule.enabled=true")
    assert "1. IS YOUR PROMETHEUS LOOKING?" in run_helm(*command, *forced).stdout


def test_limits_follow_from_the_budgets(helm: str) -> None:
    """Prometheus refuses a target at twice what the exporter lets a node have."""
    (monitor,) = of_kind(render(helm, "--values", CHART / "values.yaml"), "PodMonitor")
    budget = catalogue.BUDGETS
    node = 8 * budget["rank"] + 8 * budget["gpu"] + budget["run"] + budget["node"]
    assert 2 * node == monitor["spec"]["sampleLimit"]
    large = render(helm, "--values", Path(__file__).parent / "values/large-nodes.yml")
    node = 16 * budget["rank"] + 16 * budget["gpu"] + 2 * budget["run"] + budget["node"]
    assert (2 * node, 2000, 50) == tuple(
        of_kind(large, "PodMonitor")[0]["spec"][name] for name in ("sampleLimit", "targetLimit", "labelLimit")
    )


def test_label_limits_let_every_series_pass(helm: str, repository: Path) -> None:
    """Series of a scripted job, with what a scrape adds, stay within the limits on labels."""
    spec = of_kind(render(helm), "PodMonitor")[0]["spec"]
    text = (repository / "tests/golden/exposition.txt").read_text()
    lines = [line for line in text.splitlines() if "{" in line and not line.startswith("#")]
    labels = [re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line) for line in lines]
    added_by_scrape = 8  # __name__, job, instance, namespace, pod, container, endpoint, node
    assert max(map(len, labels)) + added_by_scrape <= spec["labelLimit"]
    limits = (catalogue.LABEL_NAME_BYTES, catalogue.LABEL_VALUE_BYTES)  # the exporter cuts or refuses there
    assert limits == (spec["labelNameLengthLimit"], spec["labelValueLengthLimit"])


def test_secured_means_exporter_probe_and_monitor(helm: str) -> None:
    """One switch: the agent serves over TLS, the kubelet probes as it can, Prometheus scrapes as it must."""
    values = Path(__file__).parent / "values/secured.yml"
    objects = render(helm, "--values", values)
    agent = sample_job(objects)["spec"]["template"]["spec"]["initContainers"][0]
    (endpoint,) = named(objects, "PodMonitor", "trainbeacon")["spec"]["podMetricsEndpoints"]
    web = yaml.safe_load(of_kind(objects, "Secret")[0]["stringData"]["web.yml"])

    assert "--web-config=/etc/trainbeacon/web/web.yml" in agent["args"]
    assert {"tcpSocket"} == agent["livenessProbe"].keys() & {"tcpSocket", "httpGet"}
    assert "https" == endpoint["scheme"]
    assert {"ca", "cert", "keySecret", "serverName"} == endpoint["tlsConfig"].keys()
    assert {"username", "password"} == endpoint["basicAuth"].keys()
    assert "RequireAndVerifyClientCert" == web["tls_server_config"]["client_auth_type"]
    assert ["prometheus"] == list(web["basic_auth_users"])
    assert ["monitoring", "nlp"] == [one["metadata"]["namespace"] for one in of_kind(objects, "Secret")]

    off = ("--set", "web.tls.clientCertificate.required=false,web.auth.enabled=false")
    objects = render(helm, "--values", values, *off)
    agent = sample_job(objects)["spec"]["template"]["spec"]["initContainers"][0]
    (endpoint,) = named(objects, "PodMonitor", "trainbeacon")["spec"]["podMetricsEndpoints"]
    assert "HTTPS" == agent["livenessProbe"]["httpGet"]["scheme"]
    assert {"ca", "serverName"} == endpoint["tlsConfig"].keys()
    assert "basicAuth" not in endpoint

    plain = render(helm, "--set", "sampleJob.enabled=true")
    agent = sample_job(plain)["spec"]["template"]["spec"]["initContainers"][0]
    (endpoint,) = named(plain, "PodMonitor", "trainbeacon")["spec"]["podMetricsEndpoints"]
    assert "HTTP" == agent["livenessProbe"]["httpGet"]["scheme"]
    assert [] == [argument for argument in agent["args"] if "web" in argument]
    assert not {"scheme", "tlsConfig", "basicAuth"} & endpoint.keys()
    assert [] == of_kind(plain, "Secret")


def test_web_config_is_one_that_the_exporter_takes(helm: str, promtool: str, tmp_path: Path) -> None:
    """With the pod's certificates in place, exporter and promtool take the file, and it asks for both."""
    objects = render(helm, "--values", Path(__file__).parent / "values/secured.yml")
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("server", "DNS:trainbeacon.training")
    mounted = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
    for name, source in mounted.items():
        (tmp_path / name).write_bytes(source.read_bytes())
    file = tmp_path / "web.yml"
    text = of_kind(objects, "Secret")[0]["stringData"]["web.yml"]
    file.write_text(text.replace("/etc/trainbeacon/tls", str(tmp_path)))

    done = subprocess.run([promtool, "check", "web-config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    web = WebConfigFile(str(file)).current
    assert ("https", ["prometheus"], []) == (web.scheme, list(web.users), web.warnings)
    assert web.context is not None
    assert ssl.CERT_REQUIRED == web.context.verify_mode


def test_network_policy_closes_the_metrics_port_only(helm: str) -> None:
    """Prometheus alone reaches 9797, and every other port stays as open as it was: ranks need them."""
    objects = render(helm, "--values", Path(__file__).parent / "values/notify.yml")
    policies = [one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["namespace"] == "nlp"]
    monitoring, everybody = policies[0]["spec"]["ingress"]
    assert [{"port": 9797, "protocol": "TCP"}] == monitoring["ports"]
    assert "from" not in everybody
    tcp = [port for port in everybody["ports"] if port["protocol"] == "TCP"]
    is_open = {n for port in tcp for n in range(port["port"], port["endPort"] + 1)}
    assert {9797} == set(range(1, 65536)) - is_open


def test_bridge_reads_the_settings_that_the_chart_writes(helm: str) -> None:
    """What the values say of a receiver is what `trainbeacon notify` does, with addresses from the Secret."""
    objects = render(helm, "--values", Path(__file__).parent / "values/notify.yml")
    (written,) = [
        one["data"]["notify.yml"] for one in of_kind(objects, "ConfigMap") if "notify.yml" in one["data"]
    ]
    settings = Settings.of(yaml.safe_load(written), "notify.yml")
    team = Receiver(
        name="team",
        urls_file="/etc/trainbeacon/addresses/team",
        format="markdown",
        messages_per_minute=18,
    )
    assert (
        Settings(receivers={"team": team}, deadline_seconds=25, grafana_url="https://grafana.example.org")
        == settings
    )


def test_release_fits_into_its_secret(helm: str) -> None:
    """Helm keeps a release in one Secret of at most 1 MiB, and the chart's files twice in it."""
    values = ("--set", "notify.enabled=true,sampleJob.enabled=true")
    files = [path for path in CHART.rglob("*") if path.is_file()]
    chart = [{"name": str(path), "data": base64.b64encode(path.read_bytes()).decode()} for path in files]
    release = json.dumps({"chart": chart, "manifest": render_text(helm, *values)}).encode()
    assert len(base64.b64encode(gzip.compress(release, 9))) < 1_000_000


def test_versions_agree() -> None:
    """The chart installs the version of the package that it came with."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (__version__, __version__) == (chart["appVersion"], chart["version"])


def test_manifests_are_the_chart(helm: str) -> None:
    """The plain manifests hold what the chart renders by default, one object a file, for kubectl."""
    files = sorted((REPOSITORY / "deploy/k8s/manifests").rglob("*-*.yaml"))
    objects = render(helm, "--set", "notify.enabled=true", "--skip-tests")
    rendered = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    found = [yaml.safe_load(file.read_text()) for file in files]
    assert rendered == {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(files) == len(found)
    assert {"PodMonitor", "PrometheusRule", "ConfigMap"} <= {one["kind"] for one in found}
