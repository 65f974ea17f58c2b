"""Pods as the chart renders them: non-root, read-only, without capabilities, within their limits."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.chart.rendering import named, render, sample_job
from tests.images.podman import STAND_IN, megabytes
from tests.images.pods import Pod
from tests.routes.test_notify import Service
from tests.serving import PATIENCE, request, scrape, wait_for
from tools import helm as tool
from trainbeacon.stack.ports import free_port

_STATUS = "print(open('/proc/1/status').read())"


def rendered(*values: str) -> list[Any]:
    helm = tool.find()
    assert helm, "make helm"
    return render(helm, "--set", ",".join(values))


def sample(port: int, *values: str) -> Any:
    """The pod of the sample job, at another port."""
    job = sample_job(rendered("sampleJob.enabled=true", f"join.portNumber={port}", *values))
    return job["spec"]["template"]["spec"]


def served(url: str) -> set[str]:
    """The states that the ranks are served in."""
    try:
        found = scrape(f"{url}/metrics")
    except OSError:
        return set()
    return {key.label("state") for key, value in found.items() if key.name == "training_state" and value == 1}


def assert_hardened(pod: Pod, name: str, user: int) -> None:
    """As the pod's security context says: who it is, and what it may not."""
    lines = [line.split(":\t") for line in pod.inside(name, _STATUS).splitlines() if ":\t" in line]
    status = {key: value.split() for key, value in lines}
    assert {str(user)} == {*status["Uid"], *status["Gid"]}
    assert {"0000000000000000"} == {status[key][0] for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert ["1"] == status["NoNewPrivs"]
    tried = "\ntry: open('/opt/x', 'w')\nexcept OSError as error: print(error.errno)"
    assert "30" == pod.inside(name, tried).strip()  # EROFS


def test_image_of_the_agent_is_small(agent_image: str) -> None:
    """What it adds to its base stays below 60 MB."""
    added = megabytes(agent_image) - megabytes(STAND_IN)
    print(f"agent: {added:.0f} MB over its base")
    assert added < 60


def test_sidecar_serves_a_job_and_lets_it_end(demo_image: str, tmp_path: Path) -> None:
    """Two users, an fsGroup, a volume in memory: its end is seen, and then the agent goes in time."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    spec = sample(port, "sampleJob.seconds=20")
    with Pod("tb-sample", spec, tmp_path) as pod:
        begun = time.monotonic()
        pod.start("trainbeacon")
        wait_for(lambda: _answers(f"{url}/healthz"), what="the liveness probe's 200")
        print(f"agent: answers {time.monotonic() - begun:.1f} s after its start")
        assert_hardened(pod, "trainbeacon", 65532)
        pod.start("trainer")
        wait_for(lambda: {"running"} == served(url), what="running ranks")
        assert_hardened(pod, "trainer", 1000)
        wait_for(lambda: {"finished"} == served(url), what="finished ranks")
        wait_for(lambda: pod.state("trainer") == "exited", what="end of the trainer")
        assert 0 == pod.exit_code("trainer"), pod.logs("trainer")
        # The kubelet ends the sidecar now, with what is left of the grace period.
        grace = spec["terminationGracePeriodSeconds"]
        begun = time.monotonic()
        pod.stop("trainbeacon", grace)
        print(f"agent: gone {time.monotonic() - begun:.1f} s after SIGTERM")
        assert 0 == pod.exit_code("trainbeacon"), pod.logs("trainbeacon")


def test_trainer_whose_container_is_killed_is_seen_to_crash(demo_image: str, tmp_path: Path) -> None:
    """All of the trainer's container ends by SIGKILL, as beyond its memory: the sidecar serves the crash."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    spec = sample(port, "sampleJob.seconds=600", "sampleJob.ranks=1")
    with Pod("tb-killed", spec, tmp_path) as pod:
        pod.start("trainbeacon")
        pod.start("trainer")
        wait_for(lambda: {"running"} == served(url), what="a running rank")
        pod.kill("trainer")
        wait_for(lambda: {"crashed"} == served(url), what="a crashed rank")


def test_bridge_takes_alerts_and_passes_them_on(agent_image: str, tmp_path: Path) -> None:
    """The Deployment's pod, its ConfigMap and a Secret of an address: probes answer, an alert arrives."""
    objects = rendered("notify.enabled=true")
    spec = named(objects, "Deployment", "trainbeacon-notify")["spec"]["template"]["spec"]
    settings = named(objects, "ConfigMap", "trainbeacon-notify")["data"]
    port = free_port()
    arguments = spec["containers"][0]["args"]
    arguments[arguments.index("9798")] = str(port)
    arguments[arguments.index("::")] = "127.0.0.1"
    service = Service(refusals=0)
    threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True).start()
    files = {"settings": settings, "addresses": {"team": f"json://127.0.0.1:{service.server_port}/\n"}}
    with Pod("tb-notify", spec, tmp_path, files) as pod:
        pod.start("notify")
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), what="the probes' 200")
        assert_hardened(pod, "notify", 65532)
        _post(f"http://127.0.0.1:{port}/alerts/team", webhook("TrainingRankLost", run="demo", rank="1"))
        assert "It is gone." in str(service.messages.get(timeout=PATIENCE))
    service.shutdown()
    service.server_close()


def webhook(alert: str, **labels: str) -> bytes:
    """A message of Alertmanager's."""
    one = {
        "status": "firing",
        "labels": {"alertname": alert, "severity": "critical", **labels},
        "annotations": {"summary": f"{alert}.", "description": "It is gone."},
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "1",
        "generatorURL": "",
    }
    return json.dumps(
        {
            "version": "4",
            "status": "firing",
            "receiver": "team",
            "groupKey": "{}",
            "groupLabels": {},
            "commonLabels": one["labels"],
            "commonAnnotations": {},
            "externalURL": "",
            "alerts": [one],
        }
    ).encode()


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=PATIENCE) as answer:
        assert answer.status == 200


def _answers(url: str) -> bool:
    try:
        return request(url).status == 200
    except OSError:
        return False
