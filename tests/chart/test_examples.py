"""How a job joins: every example is valid, restricted, and found by the chart's monitor.

Kubernetes' own kinds are judged by its schemas. The kinds of other projects have none here: the pods inside
them are judged, and what is around by the paths that their documentation gives.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    REPOSITORY,
    Object,
    containers,
    of_kind,
    pod_templates,
    render,
    run_helm,
)
from tests.chart.schemas import VERSIONS, problems
from trainbeacon.config.settings import Config
from trainbeacon.exporter.service import DRAIN_SECONDS

EXAMPLES = sorted((REPOSITORY / "deploy/k8s/examples").glob("*.yaml"))
NOT_A_SIDECAR = {"job-in-process.yaml"}
LABEL, PORT = "trainbeacon.github.io/scrape", "trainbeacon"

#: apiVersion and kind, the keys that a spec may have, and where its pods are.
FOREIGN: dict[tuple[str, str], tuple[set[str], set[str]]] = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): (
        {"failurePolicy", "replicatedJobs"},
        {"spec.replicatedJobs.0.template.spec.template"},
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): (
        {"mlPolicy", "template"},
        {"spec.template.spec.replicatedJobs.0.template.spec.template"},
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): ({"runtimeRef", "trainer"}, set()),
    ("kubeflow.org/v1", "PyTorchJob"): (
        {"nprocPerNode", "pytorchReplicaSpecs"},
        {f"spec.pytorchReplicaSpecs.{role}.template" for role in ("Master", "Worker")},
    ),
    ("batch.volcano.sh/v1alpha1", "Job"): (
        {"minAvailable", "schedulerName", "plugins", "policies", "tasks"},
        {"spec.tasks.0.template", "spec.tasks.1.template"},
    ),
    ("ray.io/v1", "RayCluster"): (
        {"rayVersion", "headGroupSpec", "workerGroupSpecs"},
        {"spec.headGroupSpec.template", "spec.workerGroupSpecs.0.template"},
    ),
    ("ray.io/v1", "RayJob"): (
        {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "runtimeEnvYAML"}
        | {"rayClusterSpec"},
        {f"spec.rayClusterSpec.{path}" for path in ("headGroupSpec.template", "workerGroupSpecs.0.template")},
    ),
}

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


def load(example: Path) -> list[Object]:
    return [found for found in yaml.safe_load_all(example.read_text()) if found]


def joining(example: Path) -> list[Object]:
    """The pods that train: those with our label."""
    pods = list(pod_templates(load(example)))
    return [pod for pod in pods if LABEL in pod.get("metadata", {}).get("labels", {})]


@every_example
@pytest.mark.parametrize("version", VERSIONS)
def test_example_is_valid(example: Path, version: str) -> None:
    """Core kinds, and pods inside of foreign ones, fit the strict schemas; foreign shapes are the known."""
    for found in load(example):
        key = (found["apiVersion"], found["kind"])
        if key not in FOREIGN:
            assert [] == problems(found, version)
            continue
        keys, places = FOREIGN[key]
        assert found["spec"].keys() <= keys
        assert places == set(_places_of_pods(found))
        for pod in pod_templates(found):
            whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}
            assert [] == problems(whole, version)


def _places_of_pods(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        if isinstance(value.get("spec"), dict) and isinstance(value["spec"].get("containers"), list):
            return [path]
        items = value.items()
    else:
        items = enumerate(value) if isinstance(value, list) else ()
    return [found for name, part in items for found in _places_of_pods(part, f"{path}.{name}".lstrip("."))]


@every_example
def test_example_is_found_by_the_monitor(example: Path, helm: str) -> None:
    """Each pod that trains has the label and exactly one port of the name that the PodMonitor looks for."""
    (monitor,) = of_kind(render(helm), "PodMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert joining(example)
    for pod in joining(example):
        assert wanted.items() <= pod["metadata"]["labels"].items()
        ports = [port for one in containers(pod) for port in one.get("ports", ())]
        assert [9797] == [port["containerPort"] for port in ports if port.get("name") == endpoint["port"]]


@every_example
def test_sidecar_and_trainer_meet(example: Path) -> None:
    """Agent and trainer share a volume in memory and a group, and the agent has time for its last scrapes."""
    if example.name in NOT_A_SIDECAR:
        return
    for pod in joining(example):
        spec = pod["spec"]
        (agent,), (trainer, *_) = spec["initContainers"], spec["containers"]
        settings = {one["name"]: one.get("value") for one in trainer["env"]}
        folder = settings["TRAINBEACON_DIRECTORY"]
        assert ["agent", f"--directory={folder}"] == agent["args"]
        assert "Always" == agent["restartPolicy"]
        for container in (agent, trainer):
            mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
            (volume,) = [one for one in spec["volumes"] if one["name"] == mounts[folder]]
            assert "Memory" == volume["emptyDir"]["medium"]
        assert spec["securityContext"]["fsGroup"] > 0
        assert spec["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + 15
        assert agent["securityContext"]["runAsUser"] != spec["securityContext"]["runAsUser"]
        known = {key: value for key, value in settings.items() if key.startswith("TRAINBEACON_") and value}
        assert "off" == Config.load({}, environ=known).serve


@every_example
def test_pods_of_examples_are_restricted(example: Path) -> None:
    """Nothing that joining asks for needs more than the restricted pod security standard."""
    for pod in pod_templates(load(example)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert "RuntimeDefault" == spec["securityContext"]["seccompProfile"]["type"]
        for container in containers(pod):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"drop": ["ALL"]} == container["securityContext"]["capabilities"]
            assert {"limits", "requests"} == container["resources"].keys()


def test_all_examples_have_the_same_agent(helm: str) -> None:
    """Whoever reads one has read them all, and the chart's sample job is another of them."""
    agents = [
        pod["spec"]["initContainers"][0]
        for example in EXAMPLES
        if example.name not in NOT_A_SIDECAR
        for pod in joining(example)
    ]
    assert len(agents) >= 8
    assert all(agent == agents[0] for agent in agents)
    (sample,) = [
        pod
        for pod in pod_templates(render(helm, "--set", "sampleJob.enabled=true"))
        if "initContainers" in pod["spec"]
    ]
    theirs = sample["spec"]["initContainers"][0]
    same = ("name", "image", "restartPolicy", "resources")
    assert [agents[0][key] for key in same] == [theirs[key] for key in same]
    assert agents[0]["args"][1] in theirs["args"]


def test_annotations_lead_to_the_same_port() -> None:
    """The fallback by annotations names the port and path that the agent serves."""
    (pod,) = joining(REPOSITORY / "deploy/k8s/examples/job-annotations.yaml")
    (agent,) = pod["spec"]["initContainers"]
    said = pod["metadata"]["annotations"]
    assert ("true", str(agent["ports"][0]["containerPort"]), "/metrics") == tuple(
        said[f"prometheus.io/{name}"] for name in ("scrape", "port", "path")
    )


def test_document_shows_every_example(repository: Path) -> None:
    """docs/kubernetes.md leads to each example, so that nobody writes one anew."""
    text = (repository / "docs/kubernetes.md").read_text()
    assert {example.name for example in EXAMPLES} == set(re.findall(r"examples/([\w-]+\.yaml)\)", text))


def test_commands_of_the_page_install_the_chart(repository: Path, helm: str) -> None:
    """The six commands are six, and helm takes the one that installs the chart as it is printed."""
    text = (repository / "docs/kubernetes.md").read_text().replace("\\\n", " ")
    block = text[text.index("docker build") :].split("\n\n")[0]
    commands = [line.strip() for line in block.splitlines() if not line.strip().startswith("```")]
    assert 6 == len(commands), commands
    (install,) = [shlex.split(line, comments=True) for line in commands if "install trainbeacon" in line]
    assert "deploy/k8s/chart" == install[3]
    values = install[install.index("--set") :]
    done = run_helm(helm, "install", "trainbeacon", CHART, "--dry-run=client", *values)
    assert done.returncode == 0, done.stderr
    assert "A sample is training" in done.stdout
