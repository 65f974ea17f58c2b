"""Service-discovery files, as Prometheus reads them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from trainbeacon.config.settings import Config
from trainbeacon.exporter.discovery import DiscoveryFiles


def files(**settings: object) -> DiscoveryFiles:
    return DiscoveryFiles(Config.load(settings, environ={}))


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        ({"host": "127.0.0.1"}, "127.0.0.1:9797"),
        ({"host": "::1"}, "[::1]:9797"),
        ({"host": "0.0.0.0"}, f"{socket.gethostname()}:9797"),
        ({}, f"{socket.gethostname()}:9797"),
        ({"host": "0.0.0.0", "advertise": "node7.example"}, "node7.example:9797"),
        ({"host": "0.0.0.0", "advertise": "fd00::7"}, "[fd00::7]:9797"),
    ],
)
def test_target_is_an_address_that_prometheus_can_reach(
    settings: dict[str, object], target: str, tmp_path: Path
) -> None:
    """What we listen on, the host's name for every interface, or what the user advertises."""
    path = tmp_path / "sd.json"
    files(**settings, sd_file=str(path)).write(9797)
    assert [{"targets": [target], "labels": {}}] == json.loads(path.read_text())


def test_nodes_share_a_folder(tmp_path: Path) -> None:
    """Each exporter has a file of its own in sd_dir, ending in .json as a glob wants it, made if absent."""
    shared = tmp_path / "shared" / "sd"
    nodes = [files(sd_dir=str(shared), advertise=name) for name in ("node1", "node2", "fd00::7")]
    for node in nodes:
        node.write(9797)
    assert 3 == len(list(shared.glob("*.json"))) == len(list(shared.iterdir()))
    nodes[0].remove()
    assert 2 == len(list(shared.iterdir()))


def test_removing_twice_or_after_somebody_else_is_fine(tmp_path: Path) -> None:
    """A file that is gone already is no error."""
    path = tmp_path / "sd.json"
    written = files(sd_file=str(path))
    written.write(1)
    path.unlink()
    written.remove()
    written.remove()
    assert not path.exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_leaves_the_files_alone(tmp_path: Path) -> None:
    """A loader's worker that runs its parent's exit handlers takes nothing away."""
    path = tmp_path / "sd.json"
    written = files(sd_file=str(path))
    written.write(1)
    child = os.fork()
    if child == 0:
        written.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()


def test_without_settings_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Discovery files are for who asks for them."""
    monkeypatch.chdir(tmp_path)
    files().write(9797)
    assert [] == list(tmp_path.iterdir())
