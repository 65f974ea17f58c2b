"""`trainbeacon run`: a script without a line of ours is recorded, and runs as it would have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.test_contract import settings
from trainbeacon.blackbox.directory import open_directory
from trainbeacon.blackbox.reader import Box, BoxDirectory
from trainbeacon.stack.ports import free_port

TRAIN = """
import json, os, sys, torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(40, 8), torch.randint(0, 2, (40,))), batch_size=8)
for epoch in range(2):
    model.train()
    for inputs, classes in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), classes)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for inputs, classes in loader:
            model(inputs)
seen = {"argv": sys.argv, "path": sys.path[0], "name": __name__, "file": __file__}
print(json.dumps({"loss": loss.item(), **seen}))
"""
DISTRIBUTED = """
import os, sys, torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

def train(rank=None, port=None):
    given = {} if rank is None else {"rank": rank, "world_size": 2, "init_method": f"tcp://127.0.0.1:{port}"}
    distributed.init_process_group("gloo", **given)
    model = DistributedDataParallel(torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(12):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    distributed.destroy_process_group()

if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.multiprocessing.spawn(train, args=(int(sys.argv[1]),), nprocs=2)
    else:
        train()
"""


def script(folder: Path, text: str) -> Path:
    path = folder / "train.py"
    path.write_text(text)
    return path


def execute(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**settings(folder), **more},
        capture_output=True,
        text=True,
        timeout=250,
    )


def boxes(folder: Path) -> list[Box]:
    descriptor = open_directory(str(folder / "boxes"))
    try:
        return BoxDirectory(descriptor).scan()
    finally:
        os.close(descriptor)


def test_plain_loop_is_recorded_and_unchanged(tmp_path: Path) -> None:
    """Steps, samples, loss, waits and evaluations are seen; the script sees what it would have seen."""
    path = script(tmp_path, TRAIN)
    plain = execute(tmp_path, str(path), "--lr", "3")
    recorded = execute(tmp_path, "-m", "trainbeacon", "run", str(path), "--lr", "3")
    assert (plain.returncode, plain.stdout) == (recorded.returncode, recorded.stdout), recorded.stderr
    (box,) = boxes(tmp_path)
    assert "finished" == box.state
    assert 10.0 == box.number("training_steps_total")
    assert 80.0 == box.number("training_samples_total")
    assert f'"loss": {box.number("training_loss", "train")}' in plain.stdout
    assert 0.1 == box.number("training_learning_rate", "0")
    for phase in ("data_wait", "forward", "backward", "optimizer", "evaluate"):
        assert 0.0 < (box.number("training_phase_seconds_total", phase) or 0.0), phase


def test_loop_without_a_module_is_recorded_from_its_first_step(tmp_path: Path) -> None:
    """Each step counts; a first loss that was scaled before anybody looked is no loss."""
    text = """
import torch
weights = torch.zeros(3, requires_grad=True)
optimizer, scaler = torch.optim.SGD([weights], lr=0.1), torch.amp.GradScaler("cpu")
for _ in range(5):
    optimizer.zero_grad()
    scaler.scale((weights + 1).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
"""
    done = execute(tmp_path, "-m", "trainbeacon", "run", str(script(tmp_path, text)))
    assert done.returncode == 0, done.stderr
    (box,) = boxes(tmp_path)
    assert 5.0 == box.number("training_steps_total")
    assert 1.0 > (box.number("training_loss", "train") or 0.0)


def test_start_and_end_say_what_is_seen(tmp_path: Path) -> None:
    """One line each on standard error; what was not seen is named."""
    path = script(tmp_path, TRAIN.replace("model.eval()", "pass"))
    done = execute(tmp_path, "-m", "trainbeacon", "run", str(path))
    lines = [line for line in done.stderr.splitlines() if line.startswith("trainbeacon: ")]
    assert 2 == len(lines), done.stderr
    assert "recording run 'contract'" in lines[0]
    assert "saw 10 steps" in lines[1]
    assert "not seen: evaluations" in lines[1]


@pytest.mark.parametrize(
    ("ending", "status", "state"),
    [
        ("raise ValueError('no data')", 1, "failed"),
        ("import sys; sys.exit(3)", 3, "failed"),
        ("import sys; sys.exit(0)", 0, None),
        ("import torch; torch.ones(1, requires_grad=True).backward()", 0, None),
    ],
    ids=["raises", "exits with a status", "exits cleanly", "trains without an optimizer"],
)
def test_script_that_ends_before_it_trains(
    ending: str, status: int, state: str | None, tmp_path: Path
) -> None:
    """A script that fails before its first step is a failed run; one that only prints its help is none."""
    done = execute(tmp_path, "-m", "trainbeacon", "run", str(script(tmp_path, ending)))
    assert status == done.returncode
    assert ([] if state is None else [state]) == [box.state for box in boxes(tmp_path)]
    assert ("torch" in ending) == ("nothing is recorded" in done.stderr)


def test_ranks_of_a_launcher_are_recorded(tmp_path: Path) -> None:
    """`trainbeacon run torchrun ...` records each rank that torchrun starts."""
    path = script(tmp_path, DISTRIBUTED)
    launcher = ("torchrun", "--master-port", str(free_port()), "--nproc-per-node", "2", str(path))
    done = execute(tmp_path, "-m", "trainbeacon", "run", *launcher)
    assert done.returncode == 0, done.stderr
    assert {(0, 12.0), (1, 12.0)} == {
        (box.identity.rank, box.number("training_steps_total")) for box in boxes(tmp_path)
    }


def test_ranks_run_the_command_themselves(tmp_path: Path) -> None:
    """`torchrun -m trainbeacon run train.py` is the same."""
    path = script(tmp_path, DISTRIBUTED)
    launcher = (
        "--master-port",
        str(free_port()),
        "--nproc-per-node",
        "2",
        "-m",
        "trainbeacon",
        "run",
        str(path),
    )
    done = execute(tmp_path, "-m", "torch.distributed.run", *launcher)
    assert done.returncode == 0, done.stderr
    assert {(0, 12.0), (1, 12.0)} == {
        (box.identity.rank, box.number("training_steps_total")) for box in boxes(tmp_path)
    }


def test_spawned_children_are_recorded_and_their_parent_is_no_rank(tmp_path: Path) -> None:
    """The ranks of `mp.spawn`, which no launcher names, are those of their process group."""
    path = script(tmp_path, DISTRIBUTED)
    done = execute(tmp_path, "-m", "trainbeacon", "run", str(path), str(free_port()))
    assert done.returncode == 0, done.stderr
    assert {(0, 12.0), (1, 12.0)} == {
        (box.identity.rank, box.number("training_steps_total")) for box in boxes(tmp_path)
    }


def test_switched_off_it_records_nothing(tmp_path: Path) -> None:
    """TRAINBEACON_ENABLED=0 leaves the script to itself."""
    path = script(tmp_path, TRAIN)
    done = execute(tmp_path, "-m", "trainbeacon", "run", str(path), TRAINBEACON_ENABLED="0")
    assert done.returncode == 0, done.stderr
    assert [] == boxes(tmp_path)


def test_script_that_records_itself_is_left_alone(tmp_path: Path) -> None:
    """Its own beacon is the only one, counts each step once, and is the one that fails with the script."""
    text = "import trainbeacon\n" + TRAIN.replace(
        "for epoch in range(2):",
        "beacon = trainbeacon.start()\nbeacon.watch(model, optimizer)\nfor epoch in range(2):",
    )
    done = execute(tmp_path, "-m", "trainbeacon", "run", str(script(tmp_path, text + "raise ValueError()\n")))
    assert done.returncode == 1, done.stderr
    assert [(10.0, "failed")] == [(box.number("training_steps_total"), box.state) for box in boxes(tmp_path)]


def test_another_site_hook_still_runs(tmp_path: Path) -> None:
    """A cluster's own sitecustomize is not hidden by ours in the processes that a script starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("import sys; sys.from_the_cluster = True\n")
    child = "import sys; print(getattr(sys, 'from_the_cluster', False))"
    path = script(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    before = settings(tmp_path)["PYTHONPATH"]
    done = execute(
        tmp_path, "-m", "trainbeacon", "run", str(path), PYTHONPATH=f"{before}{os.pathsep}{tmp_path / 'site'}"
    )
    assert "True\n" == done.stdout, done.stderr


def test_installed_hook_records_without_the_command(tmp_path: Path) -> None:
    """`trainbeacon install-autostart`, then TRAINBEACON=1; without the variable nothing is recorded."""
    site = tmp_path / "site"
    site.mkdir()
    wrote = execute(tmp_path, "-m", "trainbeacon", "install-autostart", "--directory", str(site))
    assert wrote.returncode == 0, wrote.stderr
    path = script(tmp_path, TRAIN)
    hooked = (
        f"import site; site.addsitedir({str(site)!r}); import runpy; "
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    assert execute(tmp_path, "-c", hooked).returncode == 0
    assert not (tmp_path / "boxes").exists()
    assert execute(tmp_path, "-c", hooked, TRAINBEACON="1").returncode == 0
    assert [10.0] == [box.number("training_steps_total") for box in boxes(tmp_path)]
    assert (
        execute(
            tmp_path, "-m", "trainbeacon", "install-autostart", "--remove", "--directory", str(site)
        ).returncode
        == 0
    )
    assert [] == list(site.iterdir())


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    """A wrong name and a wrong setting end with one sentence and status 2."""
    missing = execute(tmp_path, "-m", "trainbeacon", "run", "no-such-script.py")
    assert (2, 1) == (missing.returncode, len(missing.stderr.splitlines()))
    path = script(tmp_path, TRAIN)
    wrong = execute(tmp_path, "-m", "trainbeacon", "run", "--set", "port=many", str(path))
    assert (2, True) == (wrong.returncode, "port" in wrong.stderr)
