"""The schemas of Kubernetes and of the Prometheus Operator's kinds; unknown keys are refused in both."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.chart.rendering import Object

#: The first with native sidecars by default, one between, and the last that the validator knows.
VERSIONS = ("1.29", "1.33", "1.37")
_MODELS = {
    ("monitoring.coreos.com/v1", "PodMonitor"): "v1",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "v1",
    ("monitoring.coreos.com/v1alpha1", "AlertmanagerConfig"): "v1alpha1",
}
#: Switches in a `spec` that came after the operator whose schemas these are.
_LATER = {"PodMonitor": {"convertClassicHistogramsToNHCB"}}


def problems(found: Object, version: str) -> list[str]:
    """What the schema of the object's kind says against it."""
    key = (found["apiVersion"], found["kind"])
    later = {name for name in _LATER.get(found["kind"], ()) if found["spec"].get(name) in (True, False)}
    if later:
        spec = {name: value for name, value in found["spec"].items() if name not in later}
        found = {**found, "spec": spec}
    validator = _operator_validator(*key) if key in _MODELS else _core_validator(version, *key)
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(found)
    ]


@cache
def _core_validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    """As kubernetes_validate.validate does it, but reading the files of a version once."""
    group, _, rest = api_version.rpartition("/")
    name = f"{group.split('.')[0]}-{rest}" if group else rest
    schema = _core_file(version, f"{kind.lower()}-{name}.json")
    definitions = Resource.from_contents(_core_file(version, "_definitions.json"))
    registry = definitions @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _core_file(version: str, name: str) -> Any:
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    return schema_contents(f"{folder}/{name}", version)


@cache
def _operator_validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, about names of generated classes
        from cloudcoil.models.prometheus_operator import v1, v1alpha1

        model = getattr({"v1": v1, "v1alpha1": v1alpha1}[_MODELS[api_version, kind]], kind)
        schema = model.model_json_schema(by_alias=True)
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """The schema without room for keys that it does not name; the generated classes let them pass."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(part) for name, part in schema.items()}
    if isinstance(pattern := made.get("pattern"), str) and "(?i)" in pattern:
        made["pattern"] = "(?i)" + pattern.replace("(?i)", "")  # Go has flags anywhere, Python at the start
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made
