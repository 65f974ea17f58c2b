"""Which part of a job's work a rank has is found out from whoever laid the job out, and served."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import trainbeacon
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import BoxDirectory
from trainbeacon.config.settings import Config, ConfigError
from trainbeacon.identity.parallel import DIMENSIONS, Coordinates
from trainbeacon.recorder.probes.parallelism import Parallelism, in_groups


def found(config: Config | None = None, model: Any = None) -> Coordinates:
    said = [Coordinates()]
    parallelism = Parallelism(config or Config(), said.append)
    if model is not None:
        parallelism.saw_model(model)
    parallelism.poll()
    return said[-1]


def served(folder: Path) -> dict[str, str]:
    (box,) = BoxDirectory(open_directory(str(folder))).scan()
    (labels,) = [labels for name, labels in box.infos if name == "training_rank_info"]
    return dict(zip(DIMENSIONS, labels[4:], strict=True))


def test_what_the_script_says_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By keyword or environment; of what nobody said the label is empty."""
    monkeypatch.setenv("TRAINBEACON_DATA_RANK", "7")
    with trainbeacon.start(run="r", serve="off", gpu=False, directory=str(tmp_path), stage=2) as beacon:
        with beacon.step():
            pass
        expected = dict.fromkeys(DIMENSIONS, "") | {"stage": "2", "data_rank": "7"}
        assert expected == served(tmp_path)


@pytest.mark.parametrize("value", [-1, 65536, 1.5, "two"])
def test_an_impossible_index_is_refused_at_the_start(value: Any) -> None:
    """It would be a label that no dashboard expects."""
    with pytest.raises(ConfigError, match=r"stage .*is not usable: .*Give a whole number from 0 to 65535"):
        Config.load({"stage": value}, {})


class Megatron(ModuleType):
    """What `megatron.core.parallel_state` says on a rank of 2 stages, tensor 4, data 8, no experts."""

    get_pipeline_model_parallel_rank = staticmethod(lambda: 1)
    get_pipeline_model_parallel_world_size = staticmethod(lambda: 2)
    get_tensor_model_parallel_rank = staticmethod(lambda: 3)
    get_tensor_model_parallel_world_size = staticmethod(lambda: 4)
    get_data_parallel_rank = staticmethod(lambda: 5)
    get_data_parallel_world_size = staticmethod(lambda: 8)
    get_context_parallel_rank = staticmethod(lambda: 0)
    get_context_parallel_world_size = staticmethod(lambda: 1)

    @staticmethod
    def get_expert_model_parallel_world_size() -> int:
        raise AssertionError("expert model parallel group is not initialized")


def test_megatron_is_asked_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has laid out counts, a dimension of one rank or not laid out is none; a keyword is stronger."""
    assert Coordinates() == found()
    monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", Megatron("parallel_state"))
    assert Coordinates(stage=1, tensor_rank=3, data_rank=5) == found()
    assert Coordinates(stage=0, tensor_rank=3, data_rank=5) == found(Config(stage=0))


class Grid:
    """DeepSpeed's, of a rank in the third of four stages."""

    get_stage_id = staticmethod(lambda: 2)
    get_pipe_parallel_world_size = staticmethod(lambda: 4)
    get_data_parallel_id = staticmethod(lambda: 1)
    get_data_parallel_world_size = staticmethod(lambda: 2)


class Engine:
    grid = Grid()


def test_a_pipeline_of_deepspeed_knows_its_grid() -> None:
    """It is held by the engine that is watched."""
    assert Coordinates(stage=2, data_rank=1) == found(model=Engine())


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"pp": (1, 4), "dp": (0, 2), "tp": (3, 8)}, Coordinates(stage=1, data_rank=0, tensor_rank=3)),
        (
            {"dp_replicate": (1, 2), "dp_shard": (2, 4), "cp": (1, 2), "ep": (0, 2)},
            Coordinates(data_rank=6, context_rank=1, expert_rank=0),
        ),
        ({"dp_shard": (2, 4)}, Coordinates(data_rank=2)),
        (
            {"pipeline_model_parallel_group": (0, 2), "expert_model_parallel_group": (3, 4)},
            Coordinates(stage=0, expert_rank=3),
        ),
        ({"default_pg": (3, 8), "undefined": (1, 2)}, Coordinates()),
    ],
)
def test_groups_are_known_by_their_descriptions(
    groups: dict[str, tuple[int, int]], expected: Coordinates
) -> None:
    """DeviceMesh names them by dimension, Megatron in words; two data dimensions make one index."""
    assert expected == in_groups(groups)
