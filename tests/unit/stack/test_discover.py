"""Runs are found by what their processes hold open, wherever their folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving import node, wait_for
from trainbeacon.stack.discover import Served, served


def found_in(folder: Path) -> list[Served]:
    """What was found in that folder; other tests of this user may run beside."""
    return [each for each in served() if each.directory == str(folder)]


def test_a_run_in_any_folder_is_found_with_its_exporter(tmp_path: Path) -> None:
    """No registry, no default folder, no port is needed; and what has ended is found no longer."""
    with node(tmp_path / "anywhere") as made:
        made.rank()
        wait_for(lambda: [each.url for each in found_in(made.folder)] == [made.url()], what="the exporter")
        (found,) = found_in(made.folder)
        assert found.live
        assert ("http", made.url().removeprefix("http://").removesuffix("/metrics")) == found.target
    wait_for(lambda: found_in(tmp_path / "anywhere") == [], what="the end")


@pytest.mark.parametrize("serve", ["off", "thread"])
def test_every_way_of_serving_is_told_apart(tmp_path: Path, serve: str) -> None:
    """A run that serves itself has an address, one that nobody serves has none and is seen all the same."""
    with node(tmp_path / "boxes", serve=serve) as made:
        made.rank()
        wait_for(lambda: found_in(made.folder) != [], what="the run")
        if serve == "thread":
            wait_for(lambda: found_in(made.folder)[0].url != "", what="the exporter")
        (found,) = found_in(made.folder)
        assert (serve == "thread", True) == (found.url != "", found.live)


def test_a_folder_that_was_removed_is_not_found(tmp_path: Path) -> None:
    """A name that means another file by now, or none, leads nowhere."""
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    (boxes / "exporter.lock").touch()
    with (boxes / "exporter.lock").open("rb"):
        (boxes / "exporter.lock").unlink()
        assert [] == found_in(boxes)
