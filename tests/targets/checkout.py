"""A copy of this checkout in which commands may write, and how a form is run in it."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import wait_for
from tests.targets.forms import Run
from tests.targets.pages import REPOSITORY
from tools import helm, stack
from trainbeacon.stack.ports import free_port

#: Far more than any form takes on a machine that is full.
SECONDS = 800
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", "build", "dist"
)


class Checkout:
    """The copy. Its commands find this Python, the stack's programs, and the copy's own package first."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        #: Where commands look for black boxes.
        self.boxes = scratch / "boxes"
        #: What is filled in for what, in every form.
        self.values: dict[str, str] = {}
        shutil.copytree(REPOSITORY, root, ignore=_NOT_COPIED, symlinks=True)
        self._bin = scratch / "bin"
        self._bin.mkdir(parents=True)
        programs = {name: stack.find(name) for name in stack.BINARIES} | {"helm": helm.find()}
        for name, path in programs.items():
            if path is not None:
                (self._bin / name).symlink_to(path)

    def environment(self, port: int) -> dict[str, str]:
        """Nothing of ours from outside, no environment of its own to make, `port` for whoever serves."""
        path = [str(Path(sys.executable).parent), str(self._bin), os.environ.get("PATH", os.defpath)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRAINBEACON_")}
        return {
            **inherited,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join([str(self.root / "exporter"), str(self.root)]),
            "PYTHONUNBUFFERED": "1",
            "MAKEFLAGS": f"IN_ENVIRONMENT= PYTHON={sys.executable}",
            "TRAINBEACON_DIRECTORY": str(self.boxes),
            "TRAINBEACON_PORT": str(port),
        }

    def run(self, form: Run, scratch: Path) -> str:
        """Run a form; returns its output, fails the test with it if the command fails."""
        port = free_port()
        values = {**self.values, "{python}": sys.executable, "{port}": str(port), "{scratch}": str(scratch)}
        environment = self.environment(port)
        for name in form.needs:
            if shutil.which(name, path=environment["PATH"]) is None:
                pytest.skip(f"{name} is not available here")
        for path, text in form.files.items():
            (self.root / _filled(path, values)).write_text(_filled(text, values))
        output = scratch / "output"
        with _started(_filled(form.command, values), self.root, environment, output) as process:
            if form.until:
                wait_for(
                    lambda: re.search(form.until, output.read_text()) or process.poll() is not None,
                    SECONDS,
                    f"{form.until!r} of {form.command}",
                )
                if form.meanwhile:
                    command = ["bash", "-c", _filled(form.meanwhile, values)]
                    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
                with contextlib.suppress(ProcessLookupError):  # it ended by itself: its output says why
                    os.killpg(process.pid, signal.SIGINT)
            status = process.wait(SECONDS)
        said = output.read_text()
        assert re.search(form.until, said) if form.until else status == 0, said
        assert not form.writes or glob.glob(_filled(form.writes, values), root_dir=self.root), said
        return said


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


@contextlib.contextmanager
def _started(
    command: str, folder: Path, environment: dict[str, str], output: Path
) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, of which nothing is left afterwards."""
    with output.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
