"""A file system for the boxes that is full, at the start or later: training goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRAINER = """
import logging, os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[2], "tmpfs", sys.argv[1]], check=True)
warnings = []
class Keep(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())
logging.getLogger("trainbeacon").addHandler(Keep())
import trainbeacon
from trainbeacon.blackbox.reader import BoxDirectory
with trainbeacon.start(run="full", serve="off", directory=sys.argv[1]) as beacon:
    if sys.argv[3] == "later":
        with open(os.path.join(sys.argv[1], "filler"), "wb") as filler:
            try:
                while True:
                    os.write(filler.fileno(), bytes(4096))
            except OSError as error:
                assert error.errno == 28, error
    for number in range(5000):
        with beacon.step(samples=2):
            beacon.log(loss=float(number), **{f"metric {number % 30}": float(number)})
    recorder = beacon.recorder
    errors = recorder.writer.slots[recorder.at("trainbeacon_errors_total", "blackbox")]
    print(recorder.boxed, recorder.writer.step[recorder.at("training_steps_total")], errors, len(warnings))
    print(*warnings)
boxes = BoxDirectory(os.open(sys.argv[1], os.O_RDONLY)).scan(ring=True)
for box in boxes:
    metric = box.number("training_metric", "metric 29", "train")
    print(box.state, box.number("training_loss", "train"), metric)
"""


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    """Mounting needs a namespace of our own."""
    command = ["unshare", "-rm", "true"]
    try:
        allowed = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("unshare -rm is not permitted here, so no small tmpfs can be mounted")


def train(mount: Path, size: str, filled: str) -> list[str]:
    command = ["unshare", "-rm", sys.executable, "-c", TRAINER, str(mount), size, filled]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


def test_a_full_file_system_at_the_start(tmp_path: Path) -> None:
    """Without room for a box training goes on with one warning that says so, and one counted error."""
    counts, warning = train(tmp_path, "64k", "at once")
    assert counts == "False 5000.0 1.0 1"
    assert "no black box, so this rank is not served: No space left on device" in warning


def test_a_file_system_that_fills_up_during_training(tmp_path: Path) -> None:
    """A box has all its blocks from the start: no SIGBUS, no error, and its values stay right."""
    counts, warnings, box = train(tmp_path, "1m", "later")
    assert (counts, warnings) == ("True 5000.0 0.0 0", "")
    assert box == "finished 4999.0 4979.0"
