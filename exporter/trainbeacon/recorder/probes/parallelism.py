"""Which part of a job's work a rank has, as those know it that have laid the job out.

Asked are, the first that knows counts: the settings; Megatron's and DeepSpeed's parallel state, where they
are loaded; the process groups that DeviceMesh (by its dimensions' names) and Megatron (by description)
have made. Nothing is imported, no group is made and nothing is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainbeacon.config.settings import Config
from trainbeacon.identity.parallel import DIMENSIONS, Coordinates


@dataclass(frozen=True)
class State:
    """The functions for index and size, by dimension, of a module or object that knows them."""

    functions: Mapping[str, tuple[str, str]]

    def read(self, owner: Any) -> Coordinates:
        """What it says; a dimension of one rank is none."""
        found = {name: _index(owner, *functions) for name, functions in self.functions.items()}
        return Coordinates(**found)


_MEGATRON = State(
    {
        name: (f"get_{dimension}_rank", f"get_{dimension}_world_size")
        for name, dimension in {
            "stage": "pipeline_model_parallel",
            "tensor_rank": "tensor_model_parallel",
            "context_rank": "context_parallel",
            "expert_rank": "expert_model_parallel",
            "data_rank": "data_parallel",
        }.items()
    }
)
_DEEPSPEED = State(
    {
        "context_rank": ("_get_sequence_parallel_rank", "_get_sequence_parallel_world_size"),
        "tensor_rank": ("_get_model_parallel_rank", "_get_model_parallel_world_size"),
    }
)
#: What DeepSpeed's PipelineEngine and PipelineModule hold.
_GRID = State(
    {
        "stage": ("get_stage_id", "get_pipe_parallel_world_size"),
        "tensor_rank": ("get_slice_parallel_rank", "get_slice_parallel_world_size"),
        "data_rank": ("get_data_parallel_id", "get_data_parallel_world_size"),
    }
)
_MODULES = (
    ("megatron.core.parallel_state", _MEGATRON),
    ("megatron.mpu", _MEGATRON),
    ("deepspeed.utils.groups", _DEEPSPEED),
)
#: Descriptions of process groups, lower case and without `mesh_`. Of those of one dimension the first.
_DESCRIPTIONS = {
    "stage": ("pp", "pipe", "pipeline", "stage", "pipeline_parallel", "pipeline_model_parallel_group"),
    "tensor_rank": ("tp", "tensor", "tensor_parallel", "model", "mp", "tensor_model_parallel_group"),
    "context_rank": ("cp", "context", "context_parallel", "sp", "sequence", "context_parallel_group"),
    "expert_rank": ("ep", "expert", "expert_parallel", "expert_model_parallel_group"),
    "data_rank": ("dp", "data", "data_parallel", "fsdp", "ddp", "data_parallel_group"),
}
#: Data parallelism in two dimensions, the outer one first.
_REPLICAS = ("dp_replicate", "replicate", "hsdp_replicate"), ("dp_shard", "shard", "hsdp_shard")


class Parallelism:
    """Finds the rank's coordinates and says them whenever they become known.

    Args:
        config: the settings, which are right.
        say: called with the coordinates, once for each that is found; takes well under a millisecond.
    """

    def __init__(self, config: Config, say: Callable[[Coordinates], None]) -> None:
        self._given = Coordinates(**{name: getattr(config, name) for name in DIMENSIONS})
        self._of_model = Coordinates()
        self._say = say
        self._groups: tuple[Any, ...] = ()
        self._loaded: tuple[bool, ...] = ()
        self._said = Coordinates()

    def saw_model(self, model: Any) -> None:
        """A model is watched; DeepSpeed's pipelines know their grid."""
        for name in ("grid", "_grid", "mpu"):
            grid = getattr(model, name, None)
            if hasattr(grid, "get_stage_id"):
                self._of_model = _GRID.read(grid)
        self.look()

    def poll(self) -> None:
        """Look again if process groups were made since, or a library loaded; from any thread."""
        groups, loaded = tuple(_groups()), tuple(name in sys.modules for name, _ in _MODULES)
        if groups != self._groups or loaded != self._loaded or self._said == Coordinates():
            self._groups, self._loaded = groups, loaded
            self.look()

    def look(self) -> None:
        """Look now."""
        found = self._given.over(self._of_model)
        for name, state in _MODULES:
            module = sys.modules.get(name)
            if module is not None:
                found = found.over(state.read(module))
        found = found.over(in_groups(dict(_groups())))
        if found != self._said:
            self._said = found
            self._say(found)


def in_groups(groups: Mapping[str, tuple[int, int]]) -> Coordinates:
    """What descriptions of process groups say: index and size of the rank in each."""
    found: dict[str, int] = {}
    for dimension, names in _DESCRIPTIONS.items():
        index = next((groups[name][0] for name in names if name in groups), None)
        if index is not None:
            found[dimension] = index
    outer, inner = (next((groups[name] for name in names if name in groups), None) for names in _REPLICAS)
    if "data_rank" not in found and (outer or inner):
        (replica, _), (shard, shards) = outer or (0, 1), inner or (0, 1)
        found["data_rank"] = replica * shards + shard
    return Coordinates(**found)


def _groups() -> Iterator[tuple[str, tuple[int, int]]]:
    """Description, the rank's index and the size of every group of several ranks that it is in."""
    world: Any = getattr(sys.modules.get("torch.distributed.distributed_c10d"), "_world", None)
    default = getattr(world, "default_pg", None)
    if default is None or not hasattr(world, "pg_group_ranks"):
        return
    own = default.rank()
    for group, members in list(world.pg_group_ranks.items()):
        if len(members) > 1 and own in members:
            description = str(getattr(group, "group_desc", "")).lower().removeprefix("mesh_")
            yield description, (members[own], len(members))


def _index(owner: Any, index: str, size: str) -> int | None:
    """The rank's index in a dimension, None where that has one rank or is not laid out."""
    try:
        if int(getattr(owner, size)()) < 2:
            return None
        found = int(getattr(owner, index)())
    except Exception:  # noqa: BLE001 - not there, or not initialised: each library raises what it likes
        return None
    return found if found >= 0 else None
