"""The promise of the runbooks: every query and command works as it stands, with what the message gives."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.runbooks import PLACEHOLDERS, Asked, books, commands, queries, selectors
from tools.rule_lint import ALERTS, OTHERS, selector_problems
from trainbeacon.cli import build_parser
from trainbeacon.notify.wording import DASHBOARDS

REPOSITORY = Path(__file__).resolve().parents[2]
#: What Prometheus and Alertmanager serve of themselves beside what the rules read.
OF_SERVERS = {
    "prometheus_notifications_alertmanagers_discovered",
    "prometheus_notifications_errors_total",
    "alertmanager_notifications_failed_total",
}
#: Placeholders of commands that no message gives, and the command of the same runbook that shows the value.
SHOWN_BY = {
    "PID": r"trainbeacon stacks --run RUN|pt_data_worker",
    "DEVICE": r"ip -s -s link",
    "MAX": r"ethtool -g DEVICE",
    "FOLDER": r"training_checkpoint_info|folder",
    "DIRECTORY": r"black-box directory",
    "RECEIVER": r"Receivers: `trainbeacon_notify_messages_total`",
}


#: Slurm's programs want one even to explain themselves.
_SLURM = "ClusterName=c\nSlurmctldHost=localhost\nAccountingStorageType=accounting_storage/slurmdbd\n"


def ids(asked: Asked) -> str:
    return f"{asked.runbook}: {asked.text[:60]}"


@cache
def labels_of_alerts() -> dict[str, set[str]]:
    """The labels that each alert has in the tests of the rules, and the rank where its text names one."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in REPOSITORY.glob("tests/rules/*.test.yml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                for expected in case.get("exp_alerts") or ():
                    found[case["alertname"]] |= set(expected.get("exp_labels") or ())
    for rule in ALERTS:
        if re.search(r"rank \{\{", rule["annotations"]["description"]):
            found[rule["alert"]].add("rank")
    return found


def test_every_alert_has_its_runbook() -> None:
    """And no runbook is left of an alert that is gone."""
    assert {rule["alert"] for rule in ALERTS} == set(books())


@pytest.mark.parametrize("name", books())
def test_runbook_names_the_dashboard_that_the_message_links(name: str) -> None:
    """By its title in Grafana."""
    uid = next(uid for names, uid in DASHBOARDS if names.match(name))
    models = map(json.loads, (path.read_text() for path in REPOSITORY.glob("grafana/dashboards/*.json")))
    (title,) = [model["title"] for model in models if model["uid"] == uid]
    assert f"- Dashboard: {title}.\n" in books()[name]


@pytest.mark.parametrize("name", books())
def test_runbook_says_how_the_alert_ends(name: str) -> None:
    """And how long it goes on when nothing is wrong any more, or when it is given up, as in its rules."""
    meaning = books()[name].partition("## Impact")[0]
    assert re.search(r"^(It|Either|The .*) .*\bends?\b", meaning, re.MULTILINE)
    for rule in ALERTS:
        if rule["alert"] == name:
            kept = rule.get("keep_firing_for", "")
            words = (
                f"{kept[:-1]} minute" if kept else "24 hours" if "closed" in rule["annotations"] else "never"
            )
            assert words in meaning


@pytest.mark.parametrize("asked", queries(), ids=ids)
def test_query_asks_for_what_exists(asked: Asked) -> None:
    """Series that are served or recorded, by labels that they have."""
    for selector in selectors(asked.text):
        if selector.name not in OF_SERVERS | set(OTHERS) | {None}:
            assert [] == list(selector_problems(selector))


@pytest.mark.parametrize("asked", [*queries(), *commands()], ids=ids)
def test_placeholders_are_what_the_message_gives(asked: Asked) -> None:
    """A label of the alert; or what another command of the runbook shows."""
    labels = labels_of_alerts()[asked.runbook]
    bare = re.sub(r"ALERTS|'[^']*'", "", asked.text)
    for word in set(re.findall(r"\b[A-Z]{2,}\b", bare)) - {"FAILED", "TIMEOUT", "PENDING", "CLOCK", "CONT"}:
        if word in PLACEHOLDERS:
            assert word.lower() in labels, word
        else:
            assert re.search(SHOWN_BY[word], books()[asked.runbook]), word


def _filled(text: str) -> list[str]:
    return shlex.split(re.sub(r"\bRANK|\bPID|\bGPU", "3", text))


@pytest.mark.parametrize("asked", [each for each in commands() if "trainbeacon" in each.text], ids=ids)
def test_our_commands_are_taken(asked: Asked) -> None:
    """With these options, as written; a command without any is spoken of, and explains itself."""
    words = _filled(asked.text)[1:]
    if len(words) > 1:
        assert build_parser().parse_args(words).run
    else:
        with pytest.raises(SystemExit, match="0"):
            build_parser().parse_args([*words, "--help"])


@cache
def _help(program: str, command: str) -> str:
    """What it says of itself; Slurm's ask for a configuration even then."""
    words = {"kubectl": [command, "--help"], "ps": ["--help", "all"]}.get(program, ["--help"])
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(_SLURM)
        file.flush()
        environment = {**os.environ, "SLURM_CONF": file.name}
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, env=environment)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "asked", [each for each in commands() if not re.match("trainbeacon|amtool|promtool", each.text)], ids=ids
)
def test_options_of_other_commands_are_in_their_help(asked: Asked) -> None:
    """Of those that are on this machine; the others belong to a scheduler, a driver or a file system."""
    program, *words = _filled(asked.text)
    if program == "time":
        program, *words = words
    if shutil.which(program) is None or program in ("kill", "ip", "sacct"):
        return
    for option in [word.partition("=")[0] for word in words if word.startswith("-") and word != "-20"]:
        long = option.startswith("--")
        for each in [option] if long else [f"-{letter}" for letter in option[1:]]:
            assert re.search(rf"(?<![\w-]){re.escape(each)}\b", _help(program, words[0])), f"{program} {each}"


def test_commands_of_prometheus_and_alertmanager_exist(every_amtool: str, every_promtool: str) -> None:
    """amtool and promtool of every version at hand know the command and its options."""
    programs = {"amtool": every_amtool, "promtool": every_promtool}
    found = [shlex.split(each.text) for each in commands() if each.text.split()[0] in programs]
    assert 3 <= len(found)
    for program, *words in found:
        done = subprocess.run(
            [programs[program], *words, "--help"], capture_output=True, text=True, timeout=60
        )
        assert 0 == done.returncode, f"{words}: {done.stdout}{done.stderr}"
