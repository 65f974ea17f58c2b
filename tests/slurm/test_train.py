"""deploy/slurm/train.sbatch as it is shipped, on a real Slurm: what it announces and leaves behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.slurm.site import CLEAN, REPOSITORY, RUN, SCRIPT, Site, scrape, wait_for

TRAIN = REPOSITORY / "tests/hosts/train.py"


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Where the ranks look for the word that it is enough, and write their checkpoints."""
    name = re.sub(r"\W+", "-", request.node.name)
    made = RUN / "shared" / name
    made.mkdir(parents=True)
    made.chmod(0o777)
    return made


def states(site: Site) -> dict[str, str]:
    """The present state of each rank of each run that is announced."""
    found: dict[str, str] = {}
    for target in site.targets().values():
        for line in scrape(target).splitlines():
            if match := re.fullmatch(
                r'training_state\{rank="(\d+)",run="([^"]+)",state="(\w+)"\} 1(\.0)?', line
            ):
                found[f"{match[2]} {match[1]}"] = match[3]
    return found


def wait_until_running(site: Site, job: int, *ranks: str, user: str = "ada") -> None:
    wanted = dict.fromkeys(ranks, "running")
    wait_for(
        lambda: wanted.items() <= states(site).items(),
        180,
        lambda: f"{ranks}, but {states(site)}: {site.job(job)}\n{site.output(job, user)}",
    )


def test_two_nodes_train_are_announced_and_leave_nothing(site: Site, folder: Path) -> None:
    """Two ranks of one run are served by their nodes; their end is seen, and all is gone."""
    job = site.sbatch(SCRIPT, TRAIN, folder, GPUS="1")
    wait_until_running(site, job, f"train-{job} 0", f"train-{job} 1")
    assert {"n0:9797", "n1:9797"} == set(site.targets().values())
    (folder / "enough").touch()
    ended = {f"train-{job} {rank}": "finished" for rank in range(2)}
    wait_for(lambda: states(site) == ended, 60, lambda: f"end: {states(site)}")
    assert "COMPLETED" == site.wait_until_over(job), site.output(job)
    assert CLEAN == site.leftovers()


def test_status_of_the_job_is_that_of_the_training(site: Site, folder: Path) -> None:
    """A script that fails is a job that failed, and not one that an agent's good end makes good."""
    (folder / "enough").touch()
    job = site.sbatch("--nodes=1", SCRIPT, TRAIN, folder, "--status", "3", GPUS="1")
    assert "FAILED" == site.wait_until_over(job)
    assert CLEAN == site.leftovers()


def test_job_that_ends_within_seconds_is_seen(site: Site) -> None:
    """A script that cannot even be read: the job fails at once, nothing hangs and nothing stays."""
    job = site.sbatch("--nodes=1", SCRIPT, "/nowhere/train.py", GPUS="1")
    assert "FAILED" == site.wait_until_over(job, 90)
    assert CLEAN == site.leftovers()


def test_scancel_leaves_nothing_without_an_epilog(site: Site, folder: Path) -> None:
    """After scancel no command of the job can run any more: the agents have removed folder and target."""
    job = site.sbatch(SCRIPT, TRAIN, folder, GPUS="1")
    wait_until_running(site, job, f"train-{job} 0", f"train-{job} 1")
    site.as_user("ada", "scancel", str(job))
    assert "CANCELLED" == site.wait_until_over(job)
    assert CLEAN == site.leftovers()


def test_scancel_of_ranks_that_do_not_listen_leaves_nothing(site: Site, folder: Path) -> None:
    """Ranks that ignore SIGTERM live until Slurm kills them: what they leave is removed before."""
    job = site.sbatch(SCRIPT, TRAIN, folder, "--ignore-term", GPUS="1")
    wait_until_running(site, job, f"train-{job} 0", f"train-{job} 1")
    site.as_user("ada", "scancel", str(job))
    assert "CANCELLED" == site.wait_until_over(job)
    assert CLEAN == site.leftovers()


def test_scancel_before_it_trains_leaves_nothing(site: Site, folder: Path) -> None:
    """The agents are there and the ranks still load PyTorch."""
    job = site.sbatch(SCRIPT, TRAIN, folder, GPUS="1")
    wait_for(lambda: len(site.targets()) == 2, 60, "agents")
    site.as_user("ada", "scancel", str(job))
    assert "CANCELLED" == site.wait_until_over(job)
    assert CLEAN == site.leftovers()


def test_signal_before_the_time_limit_gives_a_checkpoint(site: Site, folder: Path) -> None:
    """Slurm warns the script, which passes it on: both ranks save, and their end is seen."""
    job = site.sbatch(SCRIPT, TRAIN, folder, GPUS="1")
    wait_until_running(site, job, f"train-{job} 0", f"train-{job} 1")
    site.as_user("ada", "scancel", "--batch", "--signal=TERM", str(job))  # as --signal=B:TERM@120 does it
    wait_for(lambda: set(states(site).values()) == {"finished"}, 60, lambda: f"end: {states(site)}")
    site.wait_until_over(job)
    assert {"checkpoint-0", "checkpoint-1"} == {path.name for path in folder.iterdir()}
    assert CLEAN == site.leftovers()


def test_array_has_a_run_for_each_task(site: Site, folder: Path) -> None:
    """Tasks of an array are runs of their own, on whatever node and port."""
    job = site.sbatch("--nodes=1", "--array=4,7", SCRIPT, TRAIN, folder, GPUS="1")
    ranks = [f"train-{job}_{task} 0" for task in (4, 7)]
    wait_until_running(site, job, *ranks)
    assert 2 == len(site.targets())
    (folder / "enough").touch()
    wait_for(lambda: site.queue() == [], 120, "end of the array")
    assert CLEAN == site.leftovers()


def test_two_users_share_a_node(site: Site, folder: Path) -> None:
    """The second agent takes the next port, boxes are each user's own, and one end leaves the other be."""
    one = site.sbatch("--nodelist=n2", "--nodes=1", "--gpus-per-node=4", SCRIPT, TRAIN, folder, GPUS="1")
    wait_until_running(site, one, f"train-{one} 0")
    other = site.sbatch(
        "--nodelist=n2", "--nodes=1", "--gpus-per-node=4", SCRIPT, TRAIN, folder / "no", user="bob", GPUS="1"
    )
    wait_until_running(site, other, f"train-{one} 0", f"train-{other} 0", user="bob")
    assert {"n2:9797", "n2:9798"} == set(site.targets().values())
    modes = site.hosts["n2"].run("stat -c '%U %a' /dev/shm/trainbeacon-job-*").split("\n")
    assert {"ada", "bob"} == {line.split()[0] for line in modes if line}
    site.as_user("ada", "scancel", str(one))
    site.wait_until_over(one)
    assert {f"train-{other} 0": "running"} == states(site)
    assert {f"trainbeacon-job-{other}"} == site.leftovers()["n2"]


def test_requeue_after_a_lost_node_is_a_new_attempt_of_the_run(site: Site, folder: Path) -> None:
    """A node dies: Slurm runs the job again elsewhere as the same run, and the other node was cleaned."""
    job = site.sbatch(SCRIPT, TRAIN, folder, GPUS="1")
    wait_until_running(site, job, f"train-{job} 0", f"train-{job} 1")
    first = attempts(site)
    assert "n[0-1]" == site.job(job)["NodeList"]
    site.hosts["n1"].lose()
    wait_for(lambda: site.job(job)["Restarts"] == "1", 120, lambda: f"requeue: {site.job(job)}")
    wait_until_running(site, job, f"train-{job} 0", f"train-{job} 1")
    assert "n1:9797" not in {target for target in site.targets().values() if scrape(target)}
    assert {run for run, _ in first} == {run for run, _ in attempts(site)}
    assert max(first) < min(attempts(site))
    # Nobody was left on the lost node to remove its target.
    assert "trainbeacon-n1-9797.json" in site.targets()
    assert "removed" in site.clean_targets("--minutes=0")
    assert "trainbeacon-n1-9797.json" not in site.targets()
    site.boot("n1")
    (folder / "enough").touch()
    site.wait_until_over(job)
    assert CLEAN == site.leftovers()


def attempts(site: Site) -> set[tuple[str, float]]:
    """Run and attempt of what is announced."""
    text = "".join(map(scrape, site.targets().values()))
    found = re.findall(r'training_attempt\{[^}]*run="([^"]+)"[^}]*\} (\S+)', text)
    return {(run, float(attempt)) for run, attempt in found}


def test_killed_agents_are_cleaned_up_after(site: Site, folder: Path) -> None:
    """An agent that was killed cannot clean up: the script removes the folder, clean-targets.py the file."""
    job = site.sbatch("--nodes=1", "--nodelist=n0", SCRIPT, TRAIN, folder, GPUS="1")
    wait_until_running(site, job, f"train-{job} 0")
    site.hosts["n0"].run("pkill --full --signal KILL 'trainbeacon agent'")
    (folder / "enough").touch()
    site.wait_until_over(job)
    assert {**CLEAN, "targets": {"trainbeacon-n0-9797.json"}} == site.leftovers()
    assert "removed" in site.clean_targets("--minutes=0")
