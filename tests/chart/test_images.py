"""Images and compose, as far as they can be judged without an engine: lint, schemas, and real programs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import REPOSITORY, containers, pod_templates, render
from tests.serving import wait_for
from trainbeacon._version import __version__
from trainbeacon.cli import build_parser
from trainbeacon.stack.ports import free_port

IMAGES = REPOSITORY / "deploy/images"
COMPOSE = REPOSITORY / "deploy/compose"
DOCKERFILES = sorted(IMAGES.glob("*Dockerfile"))
every_dockerfile = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


@every_dockerfile
def test_hadolint_finds_nothing(file: Path) -> None:
    """The linter that the field uses has nothing to say."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not available for this machine")
    done = subprocess.run([program, file], capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)


@every_dockerfile
def test_image_runs_as_a_number_that_is_not_root(file: Path) -> None:
    """The last user is numeric and not 0, or the kubelet would refuse it under runAsNonRoot."""
    users = [value for name, value in instructions(file) if name == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@every_dockerfile
def test_everything_copied_is_there_and_let_in(file: Path) -> None:
    """Each source of a COPY exists and is not kept out of the build's context."""
    let_in = [
        line.removeprefix("!")
        for line in file.with_name(f"{file.name}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copies = [
        shlex.split(value) for name, value in instructions(file) if name == "COPY" and "--from" not in value
    ]
    sources = [source for copy in copies for source in copy[:-1]]
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert any(Path(source).match(pattern) or source == pattern for pattern in let_in), source


def test_packages_of_the_image_are_those_of_the_project(repository: Path) -> None:
    """Each dependency of the agent and the bridge is pinned by version and digest."""
    pinned = (IMAGES / "requirements.txt").read_text()
    project = (repository / "pyproject.toml").read_text()
    wanted = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert wanted
    names = [*re.findall(r'"([A-Za-z0-9-]+)>=', wanted[1]), "bcrypt", "apprise", "markdown-it-py"]
    assert len(names) > 5
    for name in names:
        assert re.search(rf"^{name}==\S+ \\\n    --hash=sha256:", pinned, re.MULTILINE | re.IGNORECASE), name


def arguments_of_images(helm: str) -> list[list[str]]:
    """What the chart, its examples and compose have the image's entry point do."""
    values = ("--set", "sampleJob.enabled=true,notify.enabled=true")
    objects: list[Any] = list(render(helm, *values))
    for example in sorted((REPOSITORY / "deploy/k8s/examples").glob("*.yaml")):
        objects += list(yaml.safe_load_all(example.read_text()))
    pods = [pod for one in objects for pod in pod_templates(one)]
    ours = [one for pod in pods for one in containers(pod) if one["image"].startswith("trainbeacon:")]
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return [*(one["args"] for one in ours if "args" in one), services["agent"]["command"]]


def test_entry_point_takes_the_arguments(helm: str) -> None:
    """Every command line of ours in chart, examples and compose is one that the program knows."""
    parser = build_parser()
    commands = arguments_of_images(helm)
    assert {"agent", "notify"} == {parser.parse_args(one).run.__module__.split(".")[-1] for one in commands}


# Compose


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / "compose.yaml").read_text()))


def test_compose_file_fits_the_specification() -> None:
    """A parser of the specification that knows no other keys takes it, and refuses a misspelt one."""
    compose_spec = pytest.importorskip("compose_spec")
    text = yaml.safe_dump(compose())  # merge keys resolved
    compose_spec.PyCompose.from_yaml(text).to_spec()
    for wrong in (("cap_drop", "cap_drops"), ("stop_grace_period: 45s", "stop_grace_period: soon")):
        with pytest.raises(ValueError, match=r"cap_drops|soon"):
            compose_spec.PyCompose.from_yaml(text.replace(*wrong))


def test_services_find_their_files_volumes_and_each_other() -> None:
    """What is mounted exists, volumes are declared, images have a version, ports stay on loopback."""
    found = compose()
    for name, service in found["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert "trainbeacon" not in service["image"] or service["image"].endswith(__version__)
        assert set(service.get("depends_on", ())) <= found["services"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert service["cap_drop"] == ["ALL"]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (COMPOSE / source).exists() if source.startswith(".") else source in found["volumes"]


def test_agent_and_trainer_share_a_group() -> None:
    """Two users, one volume in memory for their group: as on Kubernetes."""
    found = compose()
    agent, trainer = (found["services"][name] for name in ("agent", "trainer"))
    (agent_user, group), (trainer_user, other) = agent["user"].split(":"), trainer["user"].split(":")
    assert agent_user != trainer_user
    assert group == other
    assert f"gid={group}" in found["volumes"]["boxes"]["driver_opts"]["o"]
    assert agent["volumes"] == trainer["volumes"]
    assert trainer["environment"]["TRAINBEACON_DIRECTORY"] == agent["volumes"][0].split(":")[1]


def test_prometheus_and_alertmanager_take_the_files(tmp_path: Path, promtool: str, amtool: str) -> None:
    """The generated configurations are valid where compose mounts them, with all rules and templates."""
    for name, folder in (("prometheus", "rules"), ("alertmanager", "templates")):
        shutil.copytree(REPOSITORY / name / folder, tmp_path / name / folder)
        shutil.copy(COMPOSE / f"{name}.yml", tmp_path / name)
    checks = (
        [promtool, "check", "config", tmp_path / "prometheus/prometheus.yml"],
        [amtool, "check-config", tmp_path / "alertmanager/alertmanager.yml"],
    )
    for check in checks:
        done = subprocess.run(check, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_names_in_the_configurations_are_services() -> None:
    """Prometheus, Alertmanager and Grafana are pointed at services that compose starts."""
    services = compose()["services"]
    for name in ("prometheus.yml", "alertmanager.yml", "datasource.yml"):
        addresses = re.findall(r"([a-z]+):9\d\d\d", (COMPOSE / name).read_text())
        assert addresses
        assert set(addresses) <= services.keys()


def test_receiver_prints_what_alertmanager_sends() -> None:
    """Each alert of a message becomes a line with what, where and why."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, COMPOSE / "receiver.py", str(port)], stdout=subprocess.PIPE, text=True
    )
    labels = {"alertname": "TrainingRankLost", "run": "demo", "rank": "1"}
    alert = {"status": "firing", "labels": labels, "annotations": {"description": "It is gone."}}
    body = json.dumps({"receiver": "team", "alerts": [alert]}).encode()
    try:
        wait_for(lambda: _posted(port, body), what="receiver")
        assert process.stdout
        assert "team: Rank lost in demo: rank 1: It is gone.\n" == process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def _posted(port: int, body: bytes) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/alerts", data=body, timeout=120) as answer:
            return answer.status == 200
    except OSError:
        return False
