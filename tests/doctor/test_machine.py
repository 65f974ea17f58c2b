"""`trainbeacon doctor` on broken set-ups of one machine and on files: each its code and what mends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.doctor.pages import Pages, page
from tests.serving import Node, environment, wait_for
from trainbeacon.cli import main
from trainbeacon.doctor import visit as doctor
from trainbeacon.doctor.context import Answer, Context
from trainbeacon.doctor.mend import is_command
from trainbeacon.doctor.results import Result
from trainbeacon.stack.discover import Served


def amiss(**options: object) -> dict[str, Result]:
    """What is amiss, by code."""
    found = doctor.visit(Context(**options))  # type: ignore[arg-type]
    return {each.code: each for each in found if each.status in ("fail", "warn")}


def mend(result: Result) -> None:
    """Do what is said."""
    assert is_command(result.fix), result.fix
    subprocess.run(["bash", "-c", result.fix], check=True, timeout=120, env=environment())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path / "boxes", {"serve": "off"})
    yield found
    found.close()


# Files

PROMETHEUS = """\
global:
  scrape_interval: 15s
  evaluation_interval: 15s
rule_files:
  - rules/*.yml
scrape_configs:
  - job_name: trainbeacon
    static_configs:
      - targets: [127.0.0.1:9797]
alerting:
  alertmanagers:
    - static_configs:
        - targets: [127.0.0.1:9093]
"""
ALERTMANAGER = """\
route:
  receiver: team
  group_by: [cluster, namespace, run]
  routes:
    - matchers: [severity = "critical"]
      group_wait: 5s
receivers:
  - name: team
    webhook_configs:
      - url: https://chat.example/hook
  - name: nobody
inhibit_rules:
  - source_matchers: [severity = "critical"]
    target_matchers: [severity = "warning"]
    equal: [cluster, namespace, run]
"""
RULES = """\
groups:
  - name: mine
    interval: 15s
    rules:
      - alert: LossHigh
        expr: training_loss{split="train"} > 9
        labels:
          severity: warning
"""
VALUES = """\
enabled: true
podMonitor:
  enabled: true
  interval: 15s
"""
MONITOR = """\
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: mine
spec:
  podMetricsEndpoints:
    - port: metrics
      interval: 15s
"""
JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  template:
    spec:
      containers:
        - name: train
          env:
            - name: TRAINBEACON_DIRECTORY
              value: /boxes/mine
            - name: TRAINBEACON_LINGER_SECONDS
              value: "60"
          volumeMounts:
            - name: boxes
              mountPath: /boxes
"""
WELL = {
    "prometheus": PROMETHEUS,
    "alertmanager": ALERTMANAGER,
    "rules": RULES,
    "values": VALUES,
    "monitor": MONITOR,
    "job": JOB,
}
#: Kind of file, what is changed in it, by what, the code, and whether what is said can be run.
ILL = [
    ("prometheus", "- job_name: trainbeacon", "- job_name: other\n    # trains", "", False),
    ("prometheus", "127.0.0.1:9797]", "127.0.0.1:9100]", "", False),
    (
        "prometheus",
        "job_name: trainbeacon\n    static_configs:\n      - targets: [127.0.0.1:9797]",
        "job_name: node",
        "TB403",
        True,
    ),
    ("prometheus", "  scrape_interval: 15s", "  scrape_interval: 1m", "TB413", True),
    (
        "prometheus",
        "job_name: trainbeacon\n",
        "job_name: trainbeacon\n    scrape_interval: 30s\n",
        "TB413",
        True,
    ),
    (
        "prometheus",
        "job_name: trainbeacon\n",
        "job_name: trainbeacon\n    sample_limit: 500\n",
        "TB407",
        True,
    ),
    ("prometheus", "  evaluation_interval: 15s", "  evaluation_interval: 1m", "TB423", True),
    ("prometheus", "  evaluation_interval: 15s\n", "", "TB423", True),
    ("prometheus", "rule_files:\n  - rules/*.yml\n", "", "TB420", True),
    ("prometheus", PROMETHEUS[PROMETHEUS.index("alerting") :], "", "TB501", True),
    ("alertmanager", "receiver: team", "receiver: nobody", "TB504", True),
    ("alertmanager", "receiver: team", "receiver: taem", "TB704", True),
    ("alertmanager", "group_by: [cluster, namespace, run]", "group_by: [alertname]", "TB506", True),
    ("alertmanager", "group_wait: 5s", "group_wait: 10m", "TB507", True),
    ("alertmanager", "hook\n", "hook\n        send_resolved: false\n", "TB505", False),
    ("alertmanager", ALERTMANAGER[ALERTMANAGER.index("inhibit") :], "", "TB509", False),
    ("rules", "training_loss{", "training_los{", "TB705", True),
    ("rules", "        labels:\n          severity: warning\n", "", "TB706", False),
    ("rules", "interval: 15s", "interval: 5m", "TB423", False),
    ("values", "podMonitor:", "podMonitors:", "TB707", True),
    ("values", "  interval: 15s", "  interval: 1m", "TB413", True),
    ("monitor", "interval: 15s", "interval: 1m", "TB413", True),
    ("job", "TRAINBEACON_LINGER_SECONDS", "TRAINBEACON_LINGER_SECOND", "TB709", True),
    ("job", "mountPath: /boxes", "mountPath: /box", "TB710", False),
    ("job", "value: /boxes/mine", "value: [", "TB701", False),
    ("rules", "groups:", "grups:", "TB702", False),
]


@pytest.mark.parametrize(("kind", "old", "new", "code", "runs"), [each for each in ILL if each[3]])
def test_files_are_read_before_they_are_deployed(
    kind: str, old: str, new: str, code: str, runs: bool, tmp_path: Path
) -> None:
    """What would go wrong in the cluster is said of the file, with the command that changes it."""
    file = tmp_path / f"{kind}.yml"
    assert old in WELL[kind]
    file.write_text(WELL[kind].replace(old, new))
    found = amiss(files=[str(file)])
    assert {code} == set(found)
    assert str(file) in found[code].evidence
    assert runs == is_command(found[code].fix), found[code].fix
    if runs:
        mend(found[code])
        assert {} == amiss(files=[str(file)]), file.read_text()


def test_files_in_order_are_passed_over_in_silence(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is shipped, and a small file of each kind: one line, and success."""
    for kind, text in WELL.items():
        (tmp_path / f"{kind}.yml").write_text(text)
    shipped = ["prometheus/prometheus.yml", "alertmanager/alertmanager.yml", "deploy/k8s/chart/values.yaml"]
    paths = [repository / each for each in shipped]
    paths += [
        *repository.glob("prometheus/rules/*/*.yml"),
        *repository.glob("deploy/k8s/manifests/**/*.yaml"),
    ]
    assert 0 == main(["doctor", "--strict", *map(str, [*paths, *tmp_path.iterdir()])])
    said = capsys.readouterr().out.splitlines()
    assert 1 == len(said)
    assert said[0].startswith("Nothing is amiss")


# The machine: settings, folder, processes, exporter


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("TRAINBEACON_PORT", "many", "TB101"),
        ("TRAINBEACON_ENABLED", "0", "TB102"),
        ("TRAINBEACON_SERVE", "off", "TB103"),
    ],
)
def test_settings_of_the_shell(
    variable: str, value: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that was left over is named, with the word that takes it away."""
    monkeypatch.setenv(variable, value)
    found = amiss(directory=str(tmp_path))
    assert {code} == set(found)
    assert f"unset {variable}" == found[code].fix
    monkeypatch.delenv(variable)
    assert {} == amiss(directory=str(tmp_path))


def test_the_web_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that everybody can read, a certificate that ends tomorrow, an entry that nobody knows."""
    pair = Authority(tmp_path).issue("server", "DNS:localhost")
    pair.key.chmod(0o644)
    file = tmp_path / "web.yml"
    file.write_text(f"tls_server_config: {{cert_file: {pair.certificate}, key_file: {pair.key}}}\n")
    file.chmod(0o600)
    monkeypatch.setenv("TRAINBEACON_WEB_CONFIG", str(file))
    found = amiss(directory=str(tmp_path))
    assert {"TB106", "TB107"} == set(found)
    assert str(pair.certificate) in found["TB107"].evidence
    mend(found["TB106"])
    assert {"TB107"} == set(amiss(directory=str(tmp_path)))
    file.write_text("basic_auth_users: {}\ntls: {}\n")
    found = amiss(directory=str(tmp_path))
    assert {"TB105"} == set(found)
    assert "tls" in found["TB105"].evidence
    file.write_text("{}\n")
    file.chmod(0o644)
    assert {"TB106", "TB108"} == set(amiss(directory=str(tmp_path)))


def _file(where: Path) -> None:
    where.write_text("")


def _link(where: Path) -> None:
    where.symlink_to(where.parent)


def _open(where: Path) -> None:
    where.mkdir()
    where.chmod(0o755)


def _closed(where: Path) -> None:
    where.mkdir()
    where.chmod(0o000)


def _junk(where: Path) -> None:
    where.mkdir(mode=0o700)
    (where / "run.0.box").write_bytes(b"nothing of ours" * 100)


@pytest.mark.parametrize(
    ("ruin", "code"),
    [(_file, "TB201"), (_link, "TB201"), (_open, "TB203"), (_closed, "TB203"), (_junk, "TB205")],
)
def test_the_folder_of_the_boxes(
    ruin: Callable[[Path], None], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would make a rank refuse it, or an exporter skip a file, is said and mended by one command."""
    where = tmp_path / "boxes"
    ruin(where)
    monkeypatch.setattr("trainbeacon.doctor.boxes.default_directory", lambda: str(where))
    monkeypatch.setattr("trainbeacon.doctor.context.served", lambda: [Served(str(where))] * where.is_dir())
    found = amiss()
    assert {code} == set(found)
    mend(found[code])
    assert {} == amiss()


def test_a_folder_that_was_named_and_is_not_there(tmp_path: Path) -> None:
    """Most often a word that was mistyped: the run writes elsewhere."""
    assert {"TB202"} == set(amiss(directory=str(tmp_path / "boxse")))


def test_processes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that nobody serves, one that is stopped, two that are the same, an exporter that is stopped."""
    directory = str(node.folder)
    first = node.rank()
    found = amiss(directory=directory)
    assert {"TB301"} == set(found)
    mend(found["TB301"])
    wait_for(lambda: {} == amiss(directory=directory))

    exporter = node.exporter_pid
    os.kill(exporter, signal.SIGSTOP)
    found = amiss(directory=directory, patience=1.0)
    assert {"TB302"} == set(found)
    mend(found["TB302"])
    wait_for(lambda: {} == amiss(directory=directory))

    second = node.rank()
    found = wait_for(lambda: amiss(directory=directory))
    assert {"TB207"} == set(found)
    mend(found["TB207"])
    for rank in (first, second):
        if rank.process.pid == max(first.process.pid, second.process.pid):
            rank.process.wait()
    wait_for(lambda: {} == amiss(directory=directory))

    rest = min(first.process.pid, second.process.pid)
    monkeypatch.setattr("trainbeacon.doctor.boxes.SILENT_SECONDS", 4.0)
    os.kill(rest, signal.SIGSTOP)
    found = wait_for(lambda: amiss(directory=directory))
    assert {"TB206"} == set(found)
    mend(found["TB206"])
    wait_for(lambda: {} == amiss(directory=directory))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"version": "0.0.1"}, "TB104"),
        ({"nvml": "no_permission"}, "TB109"),
        ({"collector": 0}, "TB305"),
        ({"dropped": 7}, "TB306"),
        ({"errors": 2}, "TB307"),
        ({"clock": 1e9}, "TB309"),
        ({}, ""),
    ],
)
def test_what_the_exporter_serves(changed: dict[str, object], code: str, tmp_path: Path) -> None:
    """The exporter knows of troubles of its own that nobody looks at: they are read out."""
    assert ({code} if code else set()) == set(_on_page(Answer(200, page(**changed)), tmp_path))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(401, ""), "TB303"),
        (Answer(503, ""), "TB302"),
        (Answer(200, page(clock="NaN").replace("training_state", "other")), "TB304"),
        (Answer(200, page(clock="NaN"), seconds=7.0), "TB308"),
        (ConnectionRefusedError("nobody"), "TB302"),
    ],
)
def test_how_the_exporter_answers(answer: Answer | OSError, code: str, tmp_path: Path) -> None:
    """A page that does not come, comes late, or without the ranks."""
    assert {code} == set(_on_page(answer, tmp_path))


def _on_page(answer: Answer | OSError, folder: Path) -> dict[str, Result]:
    context = Context(directory=str(folder), pages={"http://n:1": answer})
    context.served = [Served(str(folder), "http://n:1", True)]
    return {each.code: each for each in doctor.visit(context) if each.status in ("fail", "warn")}


def test_servers_that_are_old_or_not_there(tmp_path: Path) -> None:
    """Each server of the way that does not answer is named, and one that is too old for the shipped files."""
    nobody = {"prometheus": "127.0.0.1:9", "alertmanager": "127.0.0.1:9", "grafana": "http://127.0.0.1:9"}
    assert {"TB401", "TB502", "TB601"} == set(amiss(directory=str(tmp_path), **nobody))
    with closing(Pages()) as old:
        url = f"http://{old.address}"
        some = {"prometheus": url, "alertmanager": url, "grafana": url}
        assert {"TB402", "TB503", "TB602"} <= set(amiss(directory=str(tmp_path), **some))
        old.sources = [{"type": "prometheus", "url": "http://elsewhere:9090"}]
        assert "TB603" in amiss(directory=str(tmp_path), **some)


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """First line the verdict, then code, evidence, remedy and page; JSON is nothing but JSON; exit codes."""
    file = tmp_path / "prometheus.yml"
    file.write_text(PROMETHEUS.replace("  scrape_interval: 15s", "  scrape_interval: 1m"))
    assert 0 == main(["doctor", str(file)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"The scrape interval is too long: {file}: the job trainbeacon scrapes every 1m"
    assert said[1].startswith("WARN    TB413  ")
    assert said[2].strip().startswith("fix: sed -i ")
    assert said[3].strip() == "see: docs/doctor.md#tb413"
    assert 1 == main(["doctor", "--strict", str(file)])
    capsys.readouterr()
    assert 2 == main(["doctor", "--json", str(tmp_path / "absent.yml")])
    found = json.loads(capsys.readouterr().out)
    assert found["success"] is False
    assert ["TB701"] == [each["code"] for each in found["checks"] if each["status"] == "fail"]
    assert 3 == main(["doctor", "--only", "routes", "--alertmanager", "http://127.0.0.1:9"])
    assert "TB504 could not be looked at" in capsys.readouterr().out
    assert 0 == main(["doctor", "--env"])
    assert capsys.readouterr().out.startswith("trainbeacon ")


def test_every_code_has_its_paragraph(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page that a line points at says what the code means; `--list` has them all, once."""
    assert 0 == main(["doctor", "--list"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == sorted(set(listed))
    anchors = [
        line.removeprefix("### ").strip()
        for line in (repository / "docs/doctor.md").read_text().splitlines()
        if line.startswith("### ")
    ]
    assert listed == anchors


def test_an_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    """Ctrl-C while it waits for a server leaves nothing on the screen but what was there."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        line = [sys.executable, "-m", "trainbeacon", "doctor", "--only", "prometheus"]
        line.append(f"--prometheus=http://127.0.0.1:{deaf.getsockname()[1]}")
        quiet = {**environment(), "PYTHONWARNINGS": ""}
        child = subprocess.Popen(line, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deaf.settimeout(120)
        connection, _ = deaf.accept()
        with connection:  # it waits for an answer now
            child.send_signal(signal.SIGINT)
            assert (b"", b"") == child.communicate(timeout=120)
        assert 130 == child.returncode
