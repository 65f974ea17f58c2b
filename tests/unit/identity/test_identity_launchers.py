"""Who a process is under each launcher, out of the environments that the launchers leave.

Those of Open MPI, MPICH and torchrun were recorded from the real ones; the others are as their
documentation says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.identity.environments import (
    BATCH,
    DEEPSPEED,
    ELASTIC_PYTORCHJOB,
    FACTS,
    INDEXED,
    MPICH,
    OPEN_MPI,
    POD,
    PYTORCHJOB,
    SALLOC,
    SHELL,
    START,
    STEP,
    STEP_OF_NODES,
    TRAINJOB,
    Environ,
    torchrun,
)
from trainbeacon.identity import Identity, identify


def row(name: str, environ: Environ, hostname: str = "node-b", **expected: Any) -> Any:
    return pytest.param(environ, hostname, expected, id=name)


@pytest.mark.parametrize(
    ("environ", "hostname", "expected"),
    [
        row(
            "srun",
            STEP,
            launcher="slurm",
            run="train-1234",
            rank=4,
            local_rank=1,
            node_rank=1,
            world_size=8,
            local_world_size=3,
            attempt=0,
        ),
        row("srun, last node", STEP | {"SLURM_NODEID": "2", "SLURM_PROCID": "7"}, local_world_size=2),
        row("srun of an older Slurm", STEP | {"SLURM_JOB_ID": "", "SLURM_JOBID": "77"}, run="train-77"),
        row("second step", STEP | {"SLURM_STEP_ID": "1"}, run="train-1234.1", rank=4),
        row("requeued", STEP | {"SLURM_RESTART_COUNT": "2"}, run="train-1234", attempt=2),
        row(
            "array",
            STEP | {"SLURM_ARRAY_JOB_ID": "1200", "SLURM_ARRAY_TASK_ID": "7"},
            run="train-1200_7",
        ),
        row(
            "second component of a heterogeneous step",
            STEP
            | {
                "SLURM_PROCID": "9",
                "SLURM_HET_SIZE": "2",
                "SLURM_NTASKS_HET_GROUP_0": "8",
                "SLURM_NTASKS_HET_GROUP_1": "4",
            },
            rank=9,
            world_size=12,
        ),
        row(
            "python in a batch script",
            BATCH,
            launcher="slurm",
            run="train-1234",
            rank=0,
            world_size=1,
        ),
        row(
            "batch step by its number",
            BATCH | {"SLURM_STEP_ID": "4294967291"},
            run="train-1234",
            world_size=1,
        ),
        row("salloc", SALLOC, launcher="none", rank=0, world_size=1),
        row("srun --pty bash", SHELL, launcher="none", rank=0, world_size=1),
        row(
            "interactive step",
            BATCH | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "8"},
            launcher="none",
            world_size=1,
        ),
        row(
            "srun from an interactive shell",
            STEP | {"SLURM_PTY_PORT": "38021", "SLURM_STEP_ID": "3"},
            launcher="slurm",
            run="train-1234.3",
            world_size=8,
        ),
        row(
            "torchrun in srun",
            STEP_OF_NODES | torchrun(5, nodes=2, of=4),
            launcher="torchrun",
            run="train-1234",
            rank=5,
            local_rank=1,
            node_rank=1,
            world_size=8,
            local_world_size=4,
        ),
        row(
            "torchrun restarts after a requeue",
            STEP_OF_NODES
            | torchrun(5, nodes=2, of=4, TORCHELASTIC_RESTART_COUNT="3")
            | {"SLURM_RESTART_COUNT": "2"},
            attempt=2003,
        ),
        row(
            "variables by hand in srun",
            STEP | {"RANK": "4", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
            launcher="env",
            run="train-1234",
            rank=4,
            local_rank=1,
        ),
        row(
            "Open MPI",
            OPEN_MPI,
            launcher="openmpi",
            rank=3,
            local_rank=1,
            node_rank=1,
            world_size=4,
            local_world_size=2,
            attempt=int(START),
        ),
        row(
            "mpirun in a batch script, elsewhere",
            STEP_OF_NODES | OPEN_MPI | {"SLURM_STEP_ID": "5"},
            launcher="openmpi",
            run="train-1234",
            rank=3,
            world_size=4,
        ),
        row(
            "MPICH",
            MPICH,
            launcher="mpich",
            rank=1,
            local_rank=1,
            node_rank=0,
            world_size=2,
            local_world_size=2,
        ),
        row("srun --mpi=pmi2", STEP | {"PMI_RANK": "4", "PMI_SIZE": "8"}, launcher="slurm", rank=4),
        row(
            "DeepSpeed",
            DEEPSPEED,
            launcher="deepspeed",
            rank=5,
            local_rank=1,
            node_rank=1,
            world_size=8,
            local_world_size=4,
        ),
        row(
            "Indexed Job that trains as one",
            INDEXED | {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "bert-0.bert"},
            "bert-2",
            launcher="env",
            run="train-bert",
            rank=2,
            world_size=4,
            attempt=int(START),
        ),
        row(
            "Indexed Job as a sweep",
            INDEXED,
            "bert-2",
            launcher="kubernetes",
            run="train-bert-2",
            world_size=1,
        ),
        row(
            "Indexed Job as a sweep of torchrun",
            INDEXED | torchrun(1, nodes=1, of=2),
            "bert-2",
            launcher="torchrun",
            run="train-bert-2",
            rank=1,
        ),
        row(
            "Indexed Job as a sweep of DeepSpeed",
            INDEXED | DEEPSPEED | {"CROSS_SIZE": "1", "RANK": "1", "WORLD_SIZE": "4"},
            "bert-2",
            launcher="deepspeed",
            run="train-bert-2",
            rank=1,
        ),
        row(
            "Indexed Job as a sweep of processes started by the script",
            INDEXED | {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"},
            "bert-2",
            run="train-bert-2",
            rank=1,
        ),
        row("Indexed Job on the network of the node", INDEXED, "node-b", launcher="none"),
        row(
            "TrainJob",
            TRAINJOB | torchrun(3, nodes=2, of=2, MASTER_ADDR="10.1.2.3"),
            "llm-node-0-1",
            launcher="torchrun",
            run="train-llm",
            rank=3,
        ),
        row(
            "TrainJob of one node",
            TRAINJOB | {"PET_NNODES": "1", "JOB_COMPLETION_INDEX": "0"} | torchrun(1, nodes=1, of=2),
            "llm-node-0-0",
            run="train-llm-node-0-0",
        ),
        row(
            "JobSet that says its restarts",
            INDEXED
            | torchrun(3, nodes=2, of=2, TORCHELASTIC_RESTART_COUNT="1")
            | {"JOBSET_NAME": "moe", "JOBSET_RESTART_ATTEMPT": "4"},
            "moe-worker-1-2",
            run="train-moe",
            attempt=4001,
        ),
        row(
            "JobSet of several Jobs",
            POD
            | torchrun(3, nodes=2, of=2, MASTER_ADDR="moe-leader-0-0.moe.ns.svc.cluster.local")
            | {"JOB_COMPLETION_INDEX": "0"},
            "moe-worker-1-0",
            run="train-moe",
        ),
        row("PyTorchJob", PYTORCHJOB, "gpt-worker-1", launcher="env", run="train-gpt", rank=2, world_size=3),
        row(
            "PyTorchJob with torchrun",
            PYTORCHJOB | torchrun(5, nodes=3, of=2),
            "gpt-worker-1",
            launcher="torchrun",
            run="train-gpt",
            rank=5,
        ),
        row(
            "elastic PyTorchJob shrunk to one pod",
            ELASTIC_PYTORCHJOB | torchrun(1, nodes=1, of=2),
            "gpt-worker-2",
            run="train-gpt",
            world_size=2,
        ),
        row(
            "torchrun in Slurm in Kubernetes",
            POD | {"HOSTNAME": "slurmd-worker-3"} | STEP_OF_NODES | torchrun(5, nodes=2, of=4),
            "slurmd-worker-3",
            launcher="torchrun",
            run="train-1234",
            rank=5,
        ),
    ],
)
def test_launcher(environ: Environ, hostname: str, expected: dict[str, Any]) -> None:
    """Rank, place, run and attempt are what the launcher means by its variables; nothing is left unsaid."""
    identity = identify(environ, replace(FACTS, hostname=hostname))

    assert {name: getattr(identity, name) for name in expected} == expected
    assert identity.warnings == ()


def ranks_of(world: list[tuple[Environ, str]]) -> list[Identity]:
    """The identities of processes with these environments on these hosts."""
    return [
        identify(
            environ,
            replace(FACTS, hostname=host, process=f"{host} {number}", launcher=f"{host} agent"),
        )
        for number, (environ, host) in enumerate(world)
    ]


WORLDS = {
    "srun": [
        (
            STEP | {"SLURM_PROCID": str(n), "SLURM_NODEID": str(n // 3), "SLURM_LOCALID": str(n % 3)},
            f"h{n // 3}",
        )
        for n in range(8)
    ],
    "torchrun in srun": [
        (
            STEP_OF_NODES | {"SLURM_PROCID": str(n // 4), "SLURM_NODEID": str(n // 4)} | torchrun(n, 2, 4),
            f"h{n // 4}",
        )
        for n in range(8)
    ],
    # mpirun starts its processes itself on its own node, and through srun on the others.
    "mpirun in a batch script": [
        (
            (BATCH if n < 2 else STEP_OF_NODES | {"SLURM_STEP_ID": "2"})
            | OPEN_MPI
            | {"OMPI_COMM_WORLD_RANK": str(n), "OMPI_COMM_WORLD_LOCAL_RANK": str(n % 2)},
            f"h{n // 2}",
        )
        for n in range(4)
    ],
    # Only the pod in which mpirun was called has the variables of its template.
    "mpirun in a pod": [
        (
            (INDEXED if n < 2 else {})
            | OPEN_MPI
            | {"OMPI_COMM_WORLD_RANK": str(n), "OMPI_COMM_WORLD_LOCAL_RANK": str(n % 2)},
            f"mpi-{n // 2 + 2}",
        )
        for n in range(4)
    ],
    "Open MPI": [
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": str(n), "OMPI_COMM_WORLD_LOCAL_RANK": str(n % 2)}, f"h{n // 2}")
        for n in range(4)
    ],
    "DeepSpeed": [
        (DEEPSPEED | {"RANK": str(n), "LOCAL_RANK": str(n % 4), "CROSS_RANK": str(n // 4)}, f"h{n // 4}")
        for n in range(8)
    ],
    "TrainJob": [
        (TRAINJOB | {"JOB_COMPLETION_INDEX": str(n // 2)} | torchrun(n, 2, 2), f"llm-node-0-{n // 2}")
        for n in range(4)
    ],
    "PyTorchJob": [
        (PYTORCHJOB | {"RANK": str(n)}, "gpt-master-0" if n == 0 else f"gpt-worker-{n - 1}") for n in range(3)
    ],
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_all_ranks_arrive_at_one_run(world: list[tuple[Environ, str]]) -> None:
    """Without a word between them, all ranks of a job on all its hosts have one run and run_id."""
    identities = ranks_of(world)

    assert len({(identity.run, identity.run_id) for identity in identities}) == 1
    assert [identity.rank for identity in identities] == list(range(len(world)))
    assert {identity.world_size for identity in identities} == {len(world)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (STEP, STEP | {"SLURM_JOB_ID": "1235"}),
        (STEP, STEP | {"SLURM_STEP_ID": "1"}),
        (OPEN_MPI, OPEN_MPI | {"PMIX_NAMESPACE": "1939275999"}),
        (OPEN_MPI, OPEN_MPI | {"PMIX_NAMESPACE": "prterun-head-77@1"}),
        (DEEPSPEED, DEEPSPEED | {"MASTER_PORT": "29501"}),
        (TRAINJOB | torchrun(3, 2, 2), TRAINJOB | torchrun(3, 2, 2) | {"PET_MASTER_ADDR": "b-node-0-0.b"}),
    ],
    ids=["jobs", "steps", "mpiruns", "mpiruns of version 5", "DeepSpeed", "TrainJobs"],
)
def test_jobs_differ(one: Environ, other: Environ) -> None:
    """Two jobs of one script that may run at the same time have two names."""
    first, second = (identify(environ, FACTS) for environ in (one, other))

    assert first.run != second.run
    assert first.run_id != second.run_id


def test_one_name_on_two_clusters_has_two_run_ids() -> None:
    """Job numbers begin at 1 on every cluster."""
    first, second = (identify(STEP | {"SLURM_CLUSTER_NAME": name}, FACTS) for name in ("big", "small"))

    assert first.run == second.run
    assert first.run_id != second.run_id


@pytest.mark.parametrize("environ", [MPICH, DEEPSPEED | {"CROSS_SIZE": "1", "WORLD_SIZE": "4", "RANK": "1"}])
def test_launchers_without_an_id_are_told_apart_by_their_process(environ: Environ) -> None:
    """On one node the process that started the ranks stands for the job."""
    runs = [identify(environ, replace(FACTS, launcher=f"node-b boot {pid} 1")).run for pid in (90, 90, 91)]

    assert runs[0] == runs[1] != runs[2]


def test_mpiexec_over_nodes_without_anything_in_common_says_so() -> None:
    """The ranks are right and the name is the same on all; that it is every job's name is a warning."""
    world = [
        (MPICH | {"PMI_RANK": str(n), "PMI_SIZE": "4", "MPI_LOCALRANKID": str(n % 2)}, f"h{n // 2}")
        for n in range(4)
    ]
    identities = ranks_of(world)
    [warning] = {warning for identity in identities for warning in identity.warnings}

    assert {identity.run for identity in identities} == {"train-mpi"}
    assert [identity.rank for identity in identities] == [0, 1, 2, 3]
    assert "TRAINBEACON_RUN" in warning
    assert {i.warnings for i in ranks_of([(e | {"MASTER_ADDR": "h0"}, h) for e, h in world])} == {()}


@pytest.mark.parametrize(
    ("environ", "part", "rank"),
    [
        (STEP | {"SLURM_PROCID": "8"}, "SLURM_PROCID", 0),
        (STEP | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS='many'", 0),
        (STEP | {"SLURM_LOCALID": "9"}, "SLURM_LOCALID='9'", 0),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "OMPI_COMM_WORLD_LOCAL_RANK='1'", 0),
        (MPICH | {"PMI_RANK": "2"}, "PMI_RANK='2' must be at least 0 and below PMI_SIZE", 0),
        (DEEPSPEED | {"LOCAL_RANK": ""}, "LOCAL_RANK=''", 0),
        # What is wrong with the job around it does not take its rank from a process.
        (STEP | {"SLURM_RESTART_COUNT": "x"} | torchrun(5, 2, 4), "SLURM_RESTART_COUNT='x'", 5),
        (STEP | {"SLURM_STEP_ID": "x"} | torchrun(5, 2, 4), "SLURM_STEP_ID='x'", 5),
        (
            POD | {"JOBSET_NAME": "j", "JOBSET_RESTART_ATTEMPT": "-1"} | torchrun(5, 2, 4),
            "JOBSET_RESTART_",
            5,
        ),
    ],
)
def test_malformed_variables_are_named(environ: Environ, part: str, rank: int) -> None:
    """One warning says which variable cannot be right, and training goes on."""
    identity = identify(environ, FACTS)

    [warning] = identity.warnings
    assert part in warning
    assert identity.rank == rank


@pytest.mark.parametrize(
    ("text", "node", "expected"),
    [("4", 0, 4), ("4(x2),3", 1, 4), ("4(x2),3", 2, 3), ("4(x2),3", 3, 2), ("", 0, 2), ("4x2", 0, 2)],
)
def test_tasks_of_a_node(text: str, node: int, expected: int) -> None:
    """Slurm's short form is read for any node; where it says nothing, there are at least the ranks seen."""
    environ = STEP | {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node)}

    assert identify(environ, FACTS).local_world_size == expected


ALL_NAMES = sorted(
    set().union(
        STEP, SHELL, OPEN_MPI, MPICH, DEEPSPEED, TRAINJOB, PYTORCHJOB, ELASTIC_PYTORCHJOB, torchrun(0, 1, 1)
    )
    | {"SLURM_HET_SIZE", "SLURM_NTASKS_HET_GROUP_0", "JOBSET_NAME", "JOBSET_RESTART_ATTEMPT"}
)
BASES = [
    {},
    BATCH,
    STEP,
    SHELL,
    OPEN_MPI,
    MPICH,
    DEEPSPEED,
    INDEXED,
    TRAINJOB,
    PYTORCHJOB,
    ELASTIC_PYTORCHJOB,
]


@given(
    st.sampled_from(BASES),
    st.dictionaries(
        st.sampled_from(ALL_NAMES),
        st.text(max_size=80)
        | st.integers(-5, 2**40).map(str)
        | st.sampled_from(["1", "2", "a-0-0.a", "j-master-0", "4(x99999999)"]),
        max_size=6,
    ),
    st.text(max_size=80),
)
def test_hostile_environments(base: Environ, change: Environ, hostname: str) -> None:
    """No mixture of launchers and nonsense raises, or ends outside its world or in what is no label."""
    identity = identify(base | change, replace(FACTS, hostname=hostname))

    assert 0 <= identity.rank < identity.world_size
    assert 0 <= identity.local_rank < identity.world_size
    assert 1 <= identity.local_world_size <= identity.world_size
    assert identity.attempt >= 0
    for text in (identity.run, identity.run_id, identity.hostname, identity.launcher):
        assert text.isprintable()
        assert 0 <= len(text) <= 128
    assert identity == identify(base | change, replace(FACTS, hostname=hostname))
