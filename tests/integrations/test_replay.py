"""TensorBoard's event files of the past, replayed into a real Prometheus."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from tests.e2e.test_history import ask, served
from trainbeacon.replay.replay import Replay

HOUR = 3600.0
#: Written, read back as 32 bits of TensorBoard's.
LOSSES = [2.5, 1.25, float("nan"), 0.75, float("inf")]


@dataclass(frozen=True)
class Logs:
    """A folder of event files, and when its first number was written."""

    folder: Path
    begun: float


def write(folder: Path, numbers: list[tuple[str, float, int, float]]) -> Path:
    """An event file as torch's writer makes it: tag, value, step, time; returns its path."""
    before = set(folder.glob("*")) if folder.is_dir() else set()
    with SummaryWriter(str(folder)) as writer:
        for tag, value, step, at in numbers:
            writer.add_scalar(tag, value, step, walltime=at)
    (made,) = set(folder.glob("*")) - before
    # Two writers within one second give their files one name.
    return made.rename(made.with_name(f"{made.name}.{len(before)}"))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """From three hours ago on: a run that was started again, one of Keras', one cut off, one damaged."""
    folder = tmp_path_factory.mktemp("logs")
    begun = float(int(time.time() - 3 * HOUR))
    write(
        folder / "gpt",
        [("train/loss", value, 10 * i, begun + 60.0 * i) for i, value in enumerate(LOSSES)]
        + [("val/accuracy", 0.5, 40, begun + 300.0), ("reward", 7.0, 40, begun + 300.0)]
        + [("reward", 8.0, 40, begun + 300.0)],  # twice at one time
    )
    # Started again from step 20, two hours later; the writer's thread was late with the first number.
    late = [("train/loss", 0.25, 30, begun + 2 * HOUR), ("train/loss", 0.5, 20, begun + 2 * HOUR - 60.0)]
    write(folder / "gpt", late)
    keras = EventFileWriter(str(folder / "mnist/validation"))
    for value, at in ((0.9, 0.0), (0.8, 60.0)):
        summary = scalar_pb("loss", value)
        keras.add_event(Event(wall_time=begun + at, step=1, summary=summary))
    keras.close()
    cut = write(folder / "killed", [("loss", 1.0, 1, begun), ("loss", 2.0, 2, begun + 60.0)])
    cut.write_bytes(cut.read_bytes()[:-7])
    hurt = write(folder / "hurt", [("loss", float(i), i, begun + 60.0 * i) for i in range(3)])
    content = bytearray(hurt.read_bytes())
    content[content.rindex(b"loss") - 50] ^= 0xFF  # within the second event
    hurt.write_bytes(content)
    (folder / "gpt/events.out.tfevents.empty").touch()
    (folder / "loop").symlink_to(folder)
    return Logs(folder, begun)


def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    line = [sys.executable, "-m", "trainbeacon", "replay", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=250)


@pytest.mark.e2e
@pytest.mark.parametrize("way", ["text", "blocks"])
def test_event_files_are_found_in_prometheus(
    way: str, logs: Logs, tmp_path: Path, prometheus: str, promtool: str
) -> None:
    """Under the names and labels of a live run: values, NaN, restarts, and what is whole of damaged files."""
    data = tmp_path / "data"
    data.mkdir()
    options = [str(logs.folder), "--label", "cluster=east"]
    if way == "text":
        text = tmp_path / "history.om"
        done = replay(*options, "--out", str(text))
        parsed = list(text_string_to_metric_families(text.read_text()))  # a strict reader of OpenMetrics
        assert "training_loss" in {family.name for family in parsed}
        line = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(text), str(data)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    else:
        os.environ["PATH"] = f"{Path(promtool).parent}{os.pathsep}{os.environ['PATH']}"
        done = replay(*options, "--blocks", str(data))
    assert 1 == done.returncode, done.stderr
    assert "killed" in done.stderr
    assert "1 damaged events were left out" in done.stderr

    begun = logs.begun
    with served(prometheus, data) as address:

        def value(query: str, after: float) -> str:
            (found,) = ask(address, query, begun + after)
            return str(found["value"][1])

        loss = 'training_loss{run="gpt",rank="0",split="train",cluster="east"}'
        assert [str(each).replace("nan", "NaN").replace("inf", "+Inf") for each in LOSSES] == [
            value(loss, 60.0 * i) for i in range(len(LOSSES))
        ]
        assert "0.5" == value(loss, 2 * HOUR - 30.0)
        assert "0.25" == value(loss, 2 * HOUR)
        assert "30" == value('training_metric{run="gpt",name="step_logged",split="train"}', 2 * HOUR)
        assert "8" == value('training_metric{run="gpt",name="reward",split="train"}', 300.0)
        assert "0.5" == value('training_accuracy_ratio{run="gpt",split="validation"}', 300.0)
        assert "0.8" == value('round(training_loss{run="mnist",split="validation"}, 0.0001)', 60.0)
        assert "1" == value('training_loss{run="killed"}', 60.0)
        assert "2" == value('training_loss{run="hurt"}', 120.0)
        assert "2" == value('count(count_over_time(training_loss{run="hurt"}[1h])) * 2', 120.0)
        assert "2" == value('count_over_time(training_loss{run="hurt"}[1h])', 120.0)
        assert "4" == value('count(training_run_info{cluster="east"})', 240.0)


@pytest.mark.parametrize(
    ("fill", "sentence"),
    [
        (lambda folder: None, "No such file or directory"),
        (lambda folder: folder.mkdir(), "no event files (*tfevents*) in"),
        (lambda folder: folder.write_text("a file"), "Not a directory"),
        (
            lambda folder: (folder.mkdir(), (folder / "x.tfevents.1").write_bytes(b"{}" * 99)),
            "no scalars in 1 event",
        ),
    ],
    ids=["missing", "empty", "a file", "no event file"],
)
def test_what_cannot_be_replayed_is_said(
    fill, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, status 2, and nothing on standard output."""
    from trainbeacon.cli import main

    fill(tmp_path / "logs")
    status = main(["replay", str(tmp_path / "logs")])
    printed = capsys.readouterr()
    assert (2, "") == (status, printed.out)
    assert sentence in printed.err


def test_a_label_of_the_series_own_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """--label rank=1 would make two labels of one name, which Prometheus refuses."""
    from trainbeacon.cli import main

    with pytest.raises(SystemExit, match="2"):
        main(["replay", "logs", "--label", "rank=1"])
    assert "rank is a label of the series' own" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_numbers(tmp_path: Path) -> None:
    """A long run is read and written with the memory of a short one; names beyond the budget are left out."""
    begun = time.time() - HOUR

    def peak(numbers: int) -> int:
        folder = tmp_path / str(numbers)
        file = write(folder, [(f"tag{i % 60}", 0.5, i, begun + i * 0.01) for i in range(600)])
        file.write_bytes(file.read_bytes() * (numbers // 600))
        tracemalloc.start()
        with Replay(str(folder)) as read, (tmp_path / "out").open("w") as out:
            read.read()
            read.write_text(out)
            (complaint,) = read.outcome.complaints
            assert complaint.startswith(f"run {numbers}: 21 tags beyond the names")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(600)  # imports
    assert peak(12_000) < peak(3_000) + 200_000
