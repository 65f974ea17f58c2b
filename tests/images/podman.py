"""Images on a machine without a registry: built by podman over a base of Debian's packages, run by runc.

Nothing is pulled. The base that a Dockerfile names is stood in for by Debian's Python under that name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.hosts.world import REPOSITORY
from tools.stack import CACHE
from trainbeacon._version import __version__

PROGRAMS = ("podman", "runc", "mmdebstrap")
AGENT, DEMO = f"trainbeacon:{__version__}", f"trainbeacon-demo:{__version__}"
BASE, STAND_IN = "trainbeacon-tests/debian:12", "python:3.12-slim-bookworm"
#: What podman asks for by default is more than a container that this runs in may have.
_ULIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4000:4000")
_CERTIFICATES = Path("/etc/ssl/certs")
#: Where this machine's pip looks for packages, and what it has of them itself.
_PIP = (
    Path("/etc/pip.conf"),
    Path.home() / ".config/pip/pip.conf",
    Path(os.environ.get("PIP_FIND_LINKS") or "/nowhere"),
)
_BUILD_SECONDS = 1200


def podman(*arguments: str | Path, seconds: float = 120, check: bool = True) -> str:
    """What a podman command prints."""
    command = ["podman", "--runtime=runc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def run(name: str, image: str, *flags: str, command: Sequence[str] = ()) -> None:
    """Start a container in the background."""
    podman("run", "--detach", f"--name={name}", *_ULIMITS, *flags, image, *command)


def exists(image: str) -> bool:
    """Whether there is such an image."""
    return bool(podman("images", "--quiet", image).strip())


def megabytes(image: str) -> float:
    """Size of an image, with its base."""
    return float(json.loads(podman("image", "inspect", image))[0]["Size"]) / 1e6


def build_base() -> None:
    """Debian's Python as an image, unless it is there from before; minutes, once."""
    if not exists(BASE):
        archive = CACHE / "images/debian-12.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        command = ["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
        command += ["bookworm", str(archive), *([str(sources)] if sources.exists() else [])]
        subprocess.run(command, check=True, timeout=_BUILD_SECONDS, capture_output=True)
        podman("import", archive, BASE, seconds=_BUILD_SECONDS)
        archive.unlink()
    if not exists(STAND_IN):
        _build(STAND_IN, f"FROM {BASE}\nRUN ln -s /usr/bin/python3 /usr/local/bin/python\n")


def _build(tag: str, text: str) -> None:
    command = ["podman", "--runtime=runc", "build", *_ULIMITS, "--network=host", f"--tag={tag}", "-"]
    subprocess.run(command, input=text.encode(), check=True, timeout=_BUILD_SECONDS, capture_output=True)


def build(tag: str, dockerfile: str, *flags: str) -> None:
    """A shipped Dockerfile as it is, with this machine's certificates and pip's settings during the build."""
    mounts = [f"--volume={path}:{path}:ro" for path in (_CERTIFICATES, *_PIP) if path.exists()]
    options = [*_ULIMITS, "--network=host", *mounts, f"--tag={tag}", *flags]
    podman(
        "build", *options, f"--file={REPOSITORY / 'deploy/images' / dockerfile}", REPOSITORY,
        seconds=_BUILD_SECONDS,
    )  # fmt: skip


def missing() -> str:
    """Why no image can be built here; empty if they can."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(lacking)} here" if lacking else ""
