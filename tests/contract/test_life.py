"""The promise of life and death: who dies takes nobody else's metrics along, and at the end nothing is left.

All with real processes, in the order of the table in the design: a rank, all ranks, the exporter.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving import PATIENCE, Node, node, request, scrape, wait_for
from trainbeacon.testing import series

SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}


@pytest.fixture(scope="module", autouse=True)
def over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A job with the linger as shipped that ended as the module began: the other tests are its waiting."""
    with node(tmp_path_factory.mktemp("over") / "boxes", linger_seconds=60) as made:
        ranks = [made.rank(number, 2) for number in range(2)]
        made.url()
        assert [0, 0] == [rank.end() for rank in ranks]
        yield made


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "boxes") as made:
        yield made


def ranks_served(made: Node) -> set[str]:
    return {key.label("rank") for key in made.scrape() if key.name == "training_state"}


# A rank


def test_ranks_that_start_at_once_have_one_exporter(job: Node) -> None:
    """Four ranks that start in the same moment end up with one exporter process that serves all of them."""
    ranks = [job.rank(number, 4, ready=False) for number in range(4)]
    for rank in ranks:
        rank.wait_until_ready()
    wait_for(lambda: {"0", "1", "2", "3"} == ranks_served(job), what="all ranks")
    wait_for(lambda: [job.exporter_pid] == [process.pid for process in job.processes()], what="one exporter")
    assert ["", "", "", ""] == [rank.errors for rank in ranks]


def test_killed_rank_is_served_as_crashed_with_its_last_step(job: Node) -> None:
    """`kill -9` of the rank that started the exporter: it is shown as crashed, the other one lives on."""
    first, second = job.rank(0, 2), job.rank(1, 2)
    exporter = job.exporter_pid
    assert "7" == first.ask("step 7")
    first.kill()
    wait_for(lambda: job.state(0) == "crashed", what="crash")
    assert 7.0 == job.value("training_step", 0)
    assert "running" == job.state(1)
    assert "2" == second.ask("step 2")
    assert 2.0 == job.value("training_step", 1)
    assert exporter == job.exporter_pid


def test_present_phase_and_rates_are_of_the_living_only(job: Node) -> None:
    """A dead rank has no phase: a rule that looks for a stalled one must not find it."""
    job.rank(0, 2)
    dead = job.rank(1, 2)
    dead.ask("step 1")
    assert 1.0 == job.value("training_phase", 1, phase="other")
    dead.kill()
    wait_for(lambda: job.state(1) == "crashed", what="crash")
    assert job.value("training_phase", 1, phase="other") is None
    assert job.value("training_process_threads", 1) is None


def test_exception_is_served_with_its_class(job: Node) -> None:
    """A rank that an exception ends is `failed`, and says by which."""
    job.rank(0, 2)
    before = time.time()
    assert 1 == job.rank(1, 2).end("raise")
    assert "failed" == job.state(1)
    assert 1.0 == job.value("training_failure_info", 1, exception="ConnectionError", kind="peer_lost")
    assert before <= (job.value("training_failure_timestamp_seconds", 1) or 0) <= time.time()


@pytest.mark.parametrize(
    ("command", "bare", "status", "state"),
    [
        ("finish", False, 0, "finished"),
        ("finish", True, 0, "exited"),
        ("exit", True, 3, "exited"),
        ("raise", True, 1, "failed"),
    ],
)
def test_each_end_has_its_state(job: Node, command: str, bare: bool, status: int, state: str) -> None:
    """`finished` only by leaving `with` well or by finish(); an exit without it is `exited`."""
    job.rank(0, 2)
    assert status == job.rank(1, 2, bare=bare).end(command)
    assert state == job.state(1)


def test_restarted_rank_replaces_the_dead_one(job: Node) -> None:
    """After a restart there is one set of series for the rank, the new one's."""
    job.rank(0, 2)
    old = job.rank(1, 2)
    old.ask("step 9")
    old.kill()
    assert 9.0 == job.value("training_step", 1)
    assert "3" == job.rank(1, 2).ask("step 3")
    assert 3.0 == job.value("training_step", 1)  # reading would fail on a series that is there twice
    assert "running" == job.state(1)


@pytest.mark.parametrize("serve", ["process", "thread"])
def test_second_start_closes_the_first_run(job: Node, serve: str) -> None:
    """A notebook that starts a second run: the first is finished, one exporter serves both on one port."""
    rank = job.rank(0, 1, bare=True, serve=serve)
    url = job.url()
    assert "second" == rank.ask("again")
    wait_for(lambda: job.state(0, "second") == "running", what="second run")
    assert "finished" == job.state(0)
    heartbeat = series("training_heartbeat_timestamp_seconds", run="second", rank=0)
    for _ in range(3):  # a second exporter of this process would be there by the next turn of its loop
        seen = job.scrape()[heartbeat]
        wait_for(lambda seen=seen: job.scrape()[heartbeat] != seen, what="turn")
    assert url == job.url()
    listening = [
        c.laddr.port for c in psutil.Process(job.exporter_pid).net_connections() if c.status == "LISTEN"
    ]
    assert [job.settings["port"]] == listening


# The exporter


def test_killed_exporter_is_replaced_within_seconds(job: Node) -> None:
    """`kill -9` of the exporter loses no rank: another exporter serves all of them, on the same port."""
    ranks = [job.rank(number, 2) for number in range(2)]
    for rank in ranks:
        rank.ask("step 4")
    old, url = job.exporter_pid, job.url()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: job.is_served and job.exporter_pid != old, what="another exporter")
    assert url == job.url()
    assert [4.0, 4.0] == [job.value("training_step", number) for number in range(2)]


def test_exporter_and_its_starter_killed_at_once(job: Node) -> None:
    """With the rank that started it gone too, another rank starts the next exporter."""
    first, _ = job.rank(0, 2), job.rank(1, 2)
    old = job.exporter_pid
    first.kill()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: job.is_served and job.exporter_pid != old, what="another exporter")
    wait_for(lambda: ("crashed", "running") == (job.state(0), job.state(1)), what="both ranks")


def test_thread_of_another_rank_takes_over(job: Node) -> None:
    """`serve="thread"`: when the process that serves dies, another rank's thread does."""
    ranks = [job.rank(number, 2, serve="thread") for number in range(2)]
    for rank in ranks:
        rank.ask("step 6")
    serving = next(index for index, rank in enumerate(ranks) if rank.process.pid == job.exporter_pid)
    url = job.url()
    ranks[serving].kill()
    wait_for(lambda: job.is_served and job.exporter_pid == ranks[1 - serving].process.pid, what="take-over")
    assert url == job.url()
    wait_for(lambda: job.state(serving) == "crashed", what="crash")
    assert [6.0, 6.0] == [job.value("training_step", number) for number in range(2)]


def test_exporter_outlives_the_ranks_process_group(job: Node) -> None:
    """A launcher that kills the whole group of a rank leaves the exporter: the end can still be scraped."""
    rank = job.rank(linger_seconds=3600)
    exporter = job.exporter_pid
    os.killpg(rank.process.pid, signal.SIGKILL)
    rank.process.wait()
    wait_for(lambda: job.state() == "crashed", what="crash")
    assert exporter == job.exporter_pid


def test_pipe_of_the_job_closes_with_the_job(job: Node) -> None:
    """`python job.py | tee log` ends when the job does, though the exporter lives on."""
    rank = job.rank(linger_seconds=3600)
    exporter = psutil.Process(job.exporter_pid)
    rank.end()
    assert rank.process.stdout
    assert "" == rank.process.stdout.read()  # end of file, not a pipe that somebody else holds
    assert exporter.is_running()


def test_loaders_worker_keeps_neither_port_nor_life(job: Node) -> None:
    """A forked worker that outlives its killed rank: the rank is dead, its port free for the next one."""
    rank = job.rank(serve="thread")
    url = job.url()
    worker = int(rank.ask("fork"))
    try:
        rank.kill()
        job.rank(0, 1, run="next", serve="thread")
        assert url == job.url()
        wait_for(lambda: job.state(0, "next") == "running", what="next run")
        wait_for(lambda: job.state(0) in ("crashed", ""), what="end of the first")
        assert psutil.pid_exists(worker)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_loaders_worker_does_not_block_the_next_exporter(job: Node) -> None:
    """The same with an exporter process: after it was killed the next rank starts another."""
    rank = job.rank()
    url = job.url()
    worker = int(rank.ask("fork"))
    try:
        rank.kill()
        os.kill(job.exporter_pid, signal.SIGKILL)
        job.rank(0, 1, run="next")
        assert url == job.url()
        assert "running" == job.state(0, "next")
    finally:
        os.kill(worker, signal.SIGKILL)


def test_exporter_that_cannot_serve_is_said_and_counted(job: Node) -> None:
    """An address that is not ours: training goes on, one warning names the log, the error is counted."""
    rank = job.rank(host="192.0.2.1")
    wait_for(lambda: "ended with status 2" in rank.errors, what="warning")
    assert "192.0.2.1" in job.log()
    assert "1" == rank.ask("step 1")
    job.agent()
    wait_for(lambda: job.value("trainbeacon_errors_total", where="exporter") == 1.0, what="count")


def test_settings_file_with_a_relative_path(job: Node, tmp_path: Path) -> None:
    """TRAINBEACON_CONFIG=settings.yml holds where the job stands, and its exporter starts all the same."""
    (tmp_path / "settings.yml").write_text("owner: nlp\n")
    job.environment = {"TRAINBEACON_CONFIG": "settings.yml"}
    job.cwd = tmp_path
    job.rank()
    owners = {key.label("owner") for key in job.scrape() if key.name == "training_run_info"}
    assert {"nlp"} == owners


# The end


def test_exporter_ends_after_the_linger(job: Node) -> None:
    """The last rank's end is served for the linger, then the exporter is gone and its box not served."""
    rank = job.rank(linger_seconds=5.0)
    rank.ask("step 5")
    url = job.url()
    before = time.monotonic()
    rank.end()
    served = scrape(url)
    assert 1.0 == served[series("training_state", run="r", rank=0, state="finished")]
    assert 5.0 == served[series("training_step", run="r", rank=0)]
    wait_for(lambda: not job.processes(), what="end of the exporter")
    assert 5.0 <= time.monotonic() - before


@pytest.mark.parametrize("name", SIGNALS)
def test_agent_leaves_at_once_where_there_is_nothing_to_show(job: Node, name: str) -> None:
    """Without any box there is no end to wait for."""
    agent = job.agent("--linger=3600")
    agent.send_signal(SIGNALS[name])
    assert 0 == agent.wait(PATIENCE)


def test_agent_lingers_on_sigterm_until_two_scrapes_saw_the_end(job: Node) -> None:
    """A native sidecar gets SIGTERM when the containers have ended: the last state is scraped twice first."""
    agent = job.agent("--linger=3600")
    rank = job.rank(serve="off")
    url = job.url()
    assert "5" == rank.ask("step 5")
    for _ in range(3):
        scrape(url)  # these saw a live rank and do not count
    rank.end("raise")
    agent.send_signal(signal.SIGTERM)
    time.sleep(2)  # longer than an agent that does not wait takes
    assert agent.poll() is None
    for _ in range(2):
        served = scrape(url)
        assert 1.0 == served[series("training_state", run="r", rank=0, state="failed")]
        assert agent.poll() is None
    assert 0 == agent.wait(PATIENCE)


def test_agent_of_a_job_waits_so_long_and_leaves_no_folder(job: Node) -> None:
    """Nobody scrapes the end: the agent goes after --drain, and what lay in the folder goes with it."""
    agent = job.agent("--linger=60", "--drain=2", "--remove-directory")
    job.rank(serve="off").end()
    agent.send_signal(signal.SIGTERM)
    assert 0 == agent.wait(20)
    assert not job.folder.exists()


def test_folder_is_removed_beneath_ranks_that_live_on(job: Node) -> None:
    """A scheduler kills the ranks soon after it told all to end: what they make until then does not stay."""
    agent = job.agent("--drain=1", "--remove-directory")
    rank = job.rank(serve="off")
    assert "5" == rank.ask("step 5")
    agent.send_signal(signal.SIGTERM)
    wait_for(lambda: not job.folder.exists(), 20, "removal")
    assert "6" == rank.ask("step 1")
    rank.kill()
    assert 0 == agent.wait(60)
    assert not job.folder.exists()


@pytest.mark.parametrize("name", SIGNALS)
def test_second_signal_ends_the_agent_at_once(job: Node, name: str) -> None:
    """SIGTERM and then SIGTERM again, or SIGINT: no more waiting."""
    agent = job.agent("--linger=3600")
    job.rank(serve="off").end()
    agent.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert agent.poll() is None
    agent.send_signal(SIGNALS[name])
    assert 0 == agent.wait(PATIENCE)


def test_sigint_ends_the_agent_at_once(job: Node) -> None:
    """Ctrl-C on an agent that still has something to show ends it."""
    agent = job.agent("--linger=3600")
    job.rank(serve="off").end()
    assert 200 == request(job.url()).status
    agent.send_signal(signal.SIGINT)
    assert 0 == agent.wait(PATIENCE)


def test_nothing_of_ours_is_left_after_the_job(over: Node) -> None:
    """With the linger as shipped, a minute after the job no process of ours is there."""
    wait_for(lambda: not over.processes(), 60 + PATIENCE, "end of the exporter")
    assert not over.is_served
