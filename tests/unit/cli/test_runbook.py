"""`trainbeacon runbook`: prints one, lists all, and knows what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainbeacon.cli import main


@pytest.mark.parametrize(
    "name", ["TrainingStalled", "trainingstalled", "Stalled", "stalled", "TrainingStalled.md"]
)
def test_one_is_printed_by_its_alert(name: str, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In any case, and without the prefix that all have."""
    assert 0 == main(["runbook", name])
    assert (repository / "prometheus/runbooks/TrainingStalled.md").read_text() == capsys.readouterr().out


def test_all_are_listed_with_what_they_mean(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each file, name first."""
    assert 0 == main(["runbook"])
    lines = capsys.readouterr().out.splitlines()
    assert sorted(path.stem for path in repository.glob("prometheus/runbooks/*.md")) == [
        line.split()[0] for line in lines
    ]
    assert [] == [line for line in lines if len(line.split()) < 5]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TrainingStaled", "TrainingStalled"),
        ("ranklost", "TrainingRankLost"),
        ("checkpoint", "TrainingCheckpointSlow"),
        ("blind", "TrainBeaconExporterBlind"),
        ("../../../etc/passwd", "lists them all"),
        ("", "lists them all"),
    ],
)
def test_near_names_are_suggested(name: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever types from memory is told what there is."""
    status = main(["runbook", name])
    said = capsys.readouterr()
    if status == 0:
        assert said.out.startswith(f"# {meant}\n")
    else:
        assert 2 == status
        assert meant in said.err


def test_what_the_message_gives_is_filled_in(capsys: pytest.CaptureFixture[str]) -> None:
    """Queries and commands can be pasted as they are, whatever the run is called; the text stays."""
    assert 0 == main(["runbook", "TrainingStalled", "--run", 'my "run" $x', "--rank", "3"])
    said = capsys.readouterr().out
    assert '`run:training_hang:class{run="my \\"run\\" $x"}`' in said
    assert """`trainbeacon stacks --run 'my "run" $x' --rank 3`""" in said
    assert "RUN" not in said
