"""What an administrator sets up: epilog, TaskProlog, and what happens when Slurm itself does not answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.site import CLEAN, REPOSITORY, RUN, TARGETS, USERS, Site, wait_for
from tests.slurm.test_train import TRAIN, folder, states, wait_until_running

__all__ = ["folder"]

#: Ranks that start their exporter themselves, and are killed with all that they leave.
PLAIN = """\
#!/bin/bash
srun torchrun --standalone --nproc-per-node=1 "$@"
"""


@pytest.fixture
def epilog(site: Site) -> Iterator[Path]:
    """epilog.sh in slurm.conf, with the site's folder of targets."""
    programs = RUN / "administrator"
    shutil.copytree(REPOSITORY / "deploy/slurm", programs)
    text = (programs / "epilog.sh").read_text().replace("/shared/trainbeacon/targets", str(TARGETS))
    (programs / "epilog.sh").write_text(text)
    site.programs["Epilog"] = str(programs / "epilog.sh")
    site.configure()
    yield programs / "epilog.sh"
    del site.programs["Epilog"]
    site.configure()
    shutil.rmtree(programs)


@pytest.fixture
def task_prolog(site: Site) -> Iterator[None]:
    """The line of docs/slurm.md, for all tasks of the site."""
    program = RUN / "task-prolog"
    program.write_text(f"#!/bin/sh\necho 'export TRAINBEACON_SD_DIR={TARGETS}'\n")
    program.chmod(0o755)
    site.programs["TaskProlog"] = str(program)
    site.configure()
    yield
    del site.programs["TaskProlog"]
    site.configure()


def batch(text: str = PLAIN) -> Path:
    path = RUN / "plain.sbatch"
    path.write_text(text)
    return path


def default_folder(user: str) -> str:
    return f"trainbeacon-{USERS[user]}"


def test_task_prolog_announces_ranks_that_know_nothing_of_it(
    site: Site, folder: Path, task_prolog: None
) -> None:
    """A script without an agent is found all the same: its ranks have the site's variable."""
    job = site.sbatch("--nodelist=n0", batch(), TRAIN, folder)
    wait_until_running(site, job, f"train-{job} 0")
    assert {"n0:9797"} == set(site.targets().values())


def test_epilog_removes_what_a_killed_job_leaves(
    site: Site, folder: Path, task_prolog: None, epilog: Path
) -> None:
    """Ranks and exporter are killed: the user's folder and the target go with their last job on the node."""
    job = site.sbatch("--nodelist=n0", batch(), TRAIN, folder)
    wait_until_running(site, job, f"train-{job} 0")
    assert {default_folder("ada")} == site.leftovers()["n0"]
    # Process tracking by cgroups would kill the exporter too: it is killed here, before Slurm's own epilog.
    site.hosts["n0"].run(f"pkill --signal KILL --uid {USERS['ada']}")
    site.wait_until_over(job)
    wait_for(lambda: CLEAN == site.leftovers(), 60, lambda: f"epilog: {site.leftovers()}")


def test_epilog_lets_an_exporter_show_the_end(
    site: Site, folder: Path, task_prolog: None, epilog: Path
) -> None:
    """Where the exporter outlives its job, the end is served from the user's folder for its linger."""
    job = site.sbatch("--nodelist=n0", batch(), TRAIN, folder)
    wait_until_running(site, job, f"train-{job} 0")
    site.as_user("ada", "scancel", str(job))
    site.wait_until_over(job)
    assert {f"train-{job} 0": "finished"} == states(site)  # it minds SIGTERM
    assert {default_folder("ada")} == site.leftovers()["n0"]


def test_epilog_lets_the_users_other_job_be(
    site: Site, folder: Path, task_prolog: None, epilog: Path
) -> None:
    """Two jobs of one user on a node share the user's folder: the first end removes nothing."""
    first = site.sbatch("--nodelist=n0", batch(), TRAIN, folder)
    second = site.sbatch("--nodelist=n0", batch(), TRAIN, folder / "no")
    ranks = f"train-{first} 0", f"train-{second} 0"
    wait_until_running(site, first, *ranks)
    site.as_user("ada", "scancel", str(first))
    site.wait_until_over(first)
    wait_for(
        lambda: f"train-{first} 0" not in states(site) or states(site)[f"train-{first} 0"] != "running",
        60,
        "end",
    )
    assert "running" == states(site)[f"train-{second} 0"]
    assert {default_folder("ada")} == site.leftovers()["n0"]


def test_epilog_removes_nothing_while_slurm_does_not_answer(
    site: Site, folder: Path, task_prolog: None, epilog: Path
) -> None:
    """slurmctld is down when a job ends: nobody can say whether the user has others, so the folder stays."""
    job = site.sbatch("--nodelist=n0", batch(), TRAIN, folder)
    wait_until_running(site, job, f"train-{job} 0")
    with site.without_controller():
        environment = f"SLURM_JOB_ID=999 SLURM_JOB_UID={USERS['ada']} SLURM_CONF={RUN}/slurm/slurm.conf"
        site.hosts["n0"].run(f"{environment} {epilog}")
        assert {default_folder("ada")} == site.leftovers()["n0"]
    assert "running" == states(site)[f"train-{job} 0"]
