"""What the tests of the chart share: real helm, and the objects that it renders."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "deploy/k8s/chart"
SCENARIOS = sorted((Path(__file__).parent / "values").glob("*.yml"))
NAMESPACE = "monitoring"
#: What a cluster with the Prometheus Operator says that it knows.
OPERATOR = tuple(
    f"--api-versions=monitoring.coreos.com/{kind}"
    for kind in ("v1/PodMonitor", "v1/PrometheusRule", "v1alpha1/AlertmanagerConfig")
)

Object = dict[str, Any]


def run_helm(helm: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Helm without a cluster and without the user's own settings."""
    home = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), "/nonexistent")
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent", **home}
    command = [helm, *map(str, arguments), f"--namespace={NAMESPACE}"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@cache
def render_text(
    helm: str,
    *options: str | Path,
    operator: bool = True,
    release: str = "trainbeacon",
    chart: Path = CHART,
) -> str:
    """What `helm template` prints; fails with what helm says."""
    kinds = OPERATOR if operator else ()
    done = run_helm(helm, "template", release, chart, *kinds, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(helm: str, *options: str | Path, **how: Any) -> list[Object]:
    """The objects that the chart renders to; `how` as for `render_text`."""
    return objects_in(render_text(helm, *options, **how))


def refusal(helm: str, *options: str | Path) -> str:
    """What helm says about values that it does not take."""
    done = run_helm(helm, "template", "trainbeacon", CHART, *OPERATOR, *options)
    assert done.returncode != 0, "helm took these values"
    return done.stderr


def objects_in(text: str) -> list[Object]:
    return deepcopy(_parsed(text))


class StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # dashboards are long
    """Refuses a key that stands twice in a map, as kustomize and Flux do and kubectl does not."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"stand twice in a map: {sorted(twice)} {node.start_mark}"
        return dict(super().construct_mapping(node, deep))


@cache
def _parsed(text: str) -> list[Object]:
    return [found for found in yaml.load_all(text, StrictLoader) if found]


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def sample_job(objects: Sequence[Object]) -> Object:
    """The chart's own Job, whose name ends with a hash."""
    (found,) = of_kind(objects, "Job")
    return found


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = [found for found in of_kind(objects, kind) if found["metadata"]["name"] == name]
    return found


def pod_templates(value: Any) -> Iterator[Object]:
    """Every pod and pod template in an object, at whatever depth: foreign kinds nest them."""
    if isinstance(value, Mapping):
        spec = value.get("spec")
        if isinstance(spec, Mapping) and isinstance(spec.get("containers"), list):
            yield dict(value)
            return
        for part in value.values():
            yield from pod_templates(part)
    elif isinstance(value, list):
        for part in value:
            yield from pod_templates(part)


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
