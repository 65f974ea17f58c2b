"""`trainbeacon catalogue` and the frame of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trainbeacon import catalogue
from trainbeacon._version import __version__
from trainbeacon.cli import main


def test_text_is_an_aligned_table_of_all_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """The plain form has one line a metric, in columns that start where their headings do."""
    assert 0 == main(["catalogue"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert [metric.name for metric in catalogue.ALL] == [row.split()[0] for row in rows]
    start = header.index("HELP")
    assert [metric.help for metric in catalogue.ALL] == [row[start:] for row in rows]


def test_json_holds_the_whole_entry(capsys: pytest.CaptureFixture[str]) -> None:
    """A program in any language gets what the catalogue knows, and the budgets."""
    assert 0 == main(["catalogue", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert __version__ == document["version"]
    assert catalogue.BUDGETS == {name: level["budget"] for name, level in document["levels"].items()}
    entry = next(item for item in document["metrics"] if item["name"] == "training_loss")
    metric = catalogue.BY_NAME["training_loss"]
    assert (metric.help, "gauge", "rank", 3) == (
        entry["help"],
        entry["type"],
        entry["level"],
        entry["series"],
    )
    assert ["run", "rank", "split"] == entry["label_names"]
    assert ["train", "validation", "test"] == entry["labels"][0]["values"]


def test_markdown_has_every_metric_once_under_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    """The reference page lists each metric in one row of its group's table, the rows well formed."""
    assert 0 == main(["catalogue", "--markdown"])
    page = capsys.readouterr().out
    found = []
    for section in page.split("\n## ")[2:]:
        title, *lines = section.splitlines()
        rows = [line for line in lines if line.startswith("| `")]
        assert {8} == {row.replace("\\|", "").count("|") - 1 for row in rows}
        found += [(title.lower(), row.split("`")[1]) for row in rows]
    assert sorted((metric.group.lower(), metric.name) for metric in catalogue.ALL) == sorted(found)


def test_forms_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Two forms at once are wrong usage."""
    with pytest.raises(SystemExit, match="2"):
        main(["catalogue", "--json", "--markdown"])
    assert "not allowed with" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` names program and version."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert f"trainbeacon {__version__}\n" == capsys.readouterr().out


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the program says what is missing and fails."""
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`trainbeacon catalogue | head -1` ends quietly."""
    program = subprocess.Popen(
        [sys.executable, "-m", "trainbeacon", "catalogue"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.close()  # before anything was written
    _, errors = program.communicate(timeout=120)
    assert (0, b"") == (program.returncode, errors)
