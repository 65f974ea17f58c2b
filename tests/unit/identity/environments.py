"""The environments that launchers leave."""

from __future__ import annotations

from trainbeacon.identity import ProcessFacts

Environ = dict[str, str]

START = 1_760_000_000.5
FACTS = ProcessFacts(
    script="train",
    start_time=START,
    hostname="node-b",
    process="node-b boot 100 5000",
    launcher="node-b boot 90 4000",
)


def torchrun(rank: int, nodes: int, of: int, **more: str) -> Environ:
    """What torchrun gives rank `rank` of `nodes` nodes with `of` ranks each."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % of),
        "GROUP_RANK": str(rank // of),
        "WORLD_SIZE": str(nodes * of),
        "LOCAL_WORLD_SIZE": str(of),
        "MASTER_ADDR": "node-a",
        "MASTER_PORT": "29500",
        **more,
    }


BATCH = {
    "SLURM_JOB_ID": "1234",
    "SLURM_CLUSTER_NAME": "big",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NAME": "train.sh",
}
STEP = BATCH | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),2",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
#: One task a node, as for torchrun or an MPI's daemons.
STEP_OF_NODES = STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
SALLOC = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}
SHELL = BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "38021"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_MCA_ess_base_jobid": "1939275777",
    "PMIX_NAMESPACE": "1939275777",
    "PMIX_RANK": "3",
}
MPICH = {
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMI_FD": "8",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
    "HYDI_CONTROL_FD": "7",
}
DEEPSPEED = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_SIZE": "4",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
INDEXED = POD | {"JOB_COMPLETION_INDEX": "2", "HOSTNAME": "bert-2"}
TRAINJOB = POD | {
    "JOB_COMPLETION_INDEX": "1",
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "2",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "llm-node-0-0.llm",
    "PET_MASTER_PORT": "29400",
}
PYTORCHJOB = POD | {
    "MASTER_ADDR": "gpt-master-0",
    "MASTER_PORT": "23456",
    "WORLD_SIZE": "3",
    "RANK": "2",
    "PET_NNODES": "3",
    "PET_NODE_RANK": "2",
    "PET_MASTER_ADDR": "gpt-master-0",
}
ELASTIC_PYTORCHJOB = POD | {
    "PET_NNODES": "1:3",
    "PET_RDZV_ENDPOINT": "gpt-worker-0:23456",
    "PET_RDZV_BACKEND": "c10d",
}
