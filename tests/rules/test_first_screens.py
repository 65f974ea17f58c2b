"""What whoever is on call sees first: of health nothing above "ok", of a fault its run, rank and host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.screens import (
    EVALUATION_SECONDS,
    Drawn,
    asked,
    at_begin,
    drawn,
    every_panel,
    first_screen,
    judge,
    models,
)
from trainbeacon.notify.wording import DASHBOARDS
from trainbeacon.simulate.fleet import Size
from trainbeacon.simulate.history import History
from trainbeacon.simulate.scenarios import Injection, Plan

HOUR, ONSET = 3600.0, 600.0
#: Scenario: the alert whose message is opened.
FAULTS = {
    "nan": "TrainingLossNotFinite",
    "hang": "TrainingStalled",
    "stuck-loader": "TrainingStalled",
    "straggler-data": "TrainingStraggler",
    "crash": "TrainingRankLost",
    "xid": "TrainingGpuLost",
    "ecc": "TrainingGpuMemoryErrors",
    "throttling": "TrainingGpuThrottled",
}
#: The same of what is nobody's fault.
OF_ALL_RANKS = {"input-bound": "TrainingInputBound"}
#: The same of which rules that are evaluated once a minute cannot tell who raised first.
TOLD_BY_SECONDS = {"oom": "TrainingRunFailed"}
ALL = FAULTS | OF_ALL_RANKS | TOLD_BY_SECONDS
#: What is still there an hour later: a dead run is, as long as nobody has started it again.
DEAD = ("crash", "xid")
SOON, LATER = ONSET + 720.0, ONSET + HOUR
AT_ONCE, STILL = ONSET + 240.0, ONSET + 780.0
FLEET = "trainbeacon-fleet"
OF_RUNS = ("trainbeacon-run", "trainbeacon-ranks", "trainbeacon-hardware", "trainbeacon-model")
ALARMING = {"red", "dark-red", "orange", "yellow"}

Screens = dict[tuple[float, str, str], list[Drawn]]


def page_of(alert: str) -> str:
    """The dashboard that a message about this alert links."""
    return next(uid for names, uid in DASHBOARDS if names.match(alert))


def look(
    history: History,
    wanted: list[tuple[float, str, str]],
    promtool: str,
    folder: Path,
    *,
    whole: bool = False,
    evaluation: float = EVALUATION_SECONDS,
) -> Screens:
    """What is drawn on pages at moments, of runs; `whole` also in rows that are collapsed at first."""
    panels = {uid: every_panel(uid) if whole else first_screen(uid) for uid in models()}
    questions: dict[float, list[str]] = {}
    for moment, uid, run in wanted:
        exprs = [asked(t["expr"], run=run) for p in panels[uid] for t in p.get("targets", ())]
        questions.setdefault(moment, []).extend(exprs)
    answers = judge(history, questions, promtool, folder / "screens.test.yml", evaluation)
    return {
        (moment, uid, run): [
            each
            for panel in panels[uid]
            for target in panel.get("targets", ())
            for each in drawn(panel, target, answers.get((moment, asked(target["expr"], run=run)), []))
        ]
        for moment, uid, run in wanted
    }


def play(
    faults: Sequence[str],
    moments: Sequence[float],
    promtool: str,
    folder: Path,
    evaluation: float = EVALUATION_SECONDS,
) -> tuple[dict[str, Injection], Screens]:
    """Each fault in a run of its own, and at the moments the page that its message links, and Fleet."""
    count, end = len(faults), max(moments)
    size, plan = Size(4 * count, 2 * count, count), Plan(tuple(faults), ONSET)
    history = History(size, plan, seconds=end, end=at_begin(end), interval=15.0, seed=3)
    truth = {each.scenario: each for each in history.injections}
    wanted = [(moment, page_of(ALL[name]), truth[name].run) for name in faults for moment in moments]
    wanted += [(moment, FLEET, ".*") for moment in moments]
    return truth, look(history, wanted, promtool, folder, evaluation=evaluation)


@pytest.fixture(scope="module")
def soon(promtool: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Injection], Screens]:
    """All faults, twelve minutes after they struck: what slows a run down is reported after ten."""
    return play((*FAULTS, *OF_ALL_RANKS), [SOON], promtool, tmp_path_factory.mktemp("soon"))


@pytest.fixture(scope="module")
def later(promtool: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Injection], Screens]:
    """Those that end a run, an hour after."""
    return play(DEAD, [LATER], promtool, tmp_path_factory.mktemp("later"))


def named(screen: list[Drawn]) -> set[tuple[str, str]]:
    """Who is named where: the ranks and hosts of the same line."""
    return {
        (each.labels["rank"], each.labels["hostname"])
        for each in screen
        if "hostname" in each.labels and "rank" in each.labels
    }


def names_the_culprit(scenario: str, moment: float, truth: dict[str, Injection], screens: Screens) -> None:
    """Both on the page of the message and in Fleet's line of the run."""
    alert = ALL[scenario]
    culprit = truth[scenario]
    screen = screens[moment, page_of(alert), culprit.run]
    assert alert in {each.labels.get("alertname") for each in screen if each.panel == "Verdict"}
    lines = [each for each in screens[moment, FLEET, ".*"] if each.panel == "Runs"]
    own = [each for each in lines if each.labels.get("run") == culprit.run]
    assert [True] == [each.value >= 2 for each in own if each.legend == "severity"]
    assert {"owner", "project"} <= {name for each in own for name in each.labels}
    assert {"step", "last step", "condition"} <= {each.legend for each in own}
    assert (str(culprit.rank), culprit.hostname) in named(screen)
    assert {(str(culprit.rank), culprit.hostname)} == named(own)


@pytest.mark.parametrize("scenario", FAULTS)
def test_the_page_of_the_message_names_the_culprit(
    scenario: str, soon: tuple[dict[str, Injection], Screens]
) -> None:
    """Without a click: the words of the alert, and in one line the rank at fault and its host."""
    names_the_culprit(scenario, SOON, *soon)


@pytest.mark.parametrize("scenario", OF_ALL_RANKS)
def test_the_page_of_the_message_blames_nobody_for_what_all_do(
    scenario: str, soon: tuple[dict[str, Injection], Screens]
) -> None:
    """The words of the alert stand on the run's page and in Fleet's line; no rank is named beside them."""
    truth, screens = soon
    alert, run = ALL[scenario], truth[scenario].run
    page = screens[SOON, page_of(alert), run]
    verdict = [each for each in page if each.panel == "Verdict"]
    own = [
        each for each in screens[SOON, FLEET, ".*"] if each.panel == "Runs" and each.labels.get("run") == run
    ]
    assert alert in {each.labels.get("alertname") for each in verdict}
    assert alert in {each.labels.get("alertname") for each in own}
    assert [True] == [each.value >= 2 for each in own if each.legend == "severity"]
    assert set() == named(verdict) | named(own)
    assert {0.0} == {each.value for each in page if each.legend == "suspicion"}


@pytest.mark.parametrize("scenario", DEAD)
def test_a_dead_run_keeps_its_line_and_its_page(
    scenario: str, later: tuple[dict[str, Injection], Screens]
) -> None:
    """An hour after its last rank was seen it is still said who was first, where, and at which step."""
    names_the_culprit(scenario, LATER, *later)


@pytest.mark.parametrize("scenario", TOLD_BY_SECONDS)
def test_whoever_raised_first_is_named_at_once_and_later(
    scenario: str, promtool: str, tmp_path: Path
) -> None:
    """Of ranks that fail within seconds the first stands on the page, also once nothing is served."""
    moments = (AT_ONCE, STILL)
    truth, screens = play((scenario,), moments, promtool, tmp_path, evaluation=15.0)
    for moment in moments:
        names_the_culprit(scenario, moment, truth, screens)


def test_of_a_healthy_hour_nothing_is_above_ok(promtool: str, tmp_path: Path) -> None:
    """No cell, figure, bar or lane of any page is orange or red while nothing is wrong."""
    history = History(Size(8, 4, 2), Plan(), seconds=HOUR, end=at_begin(HOUR), interval=15.0, seed=4)
    runs = [run.name for run in history.fleet.runs]
    wanted = [(HOUR, uid, runs[0]) for uid in OF_RUNS]
    wanted += [(HOUR, uid, ".*") for uid in (FLEET, "trainbeacon-exporter")]
    screens = look(history, wanted, promtool, tmp_path, whole=True)
    assert all(screens.values())
    for (_, uid, _), screen in screens.items():
        found = {(each.panel, each.legend, each.value) for each in screen if each.colors & ALARMING}
        assert not found, uid
