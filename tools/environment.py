"""Run a command in this checkout's own virtual environment, made on first use.

    python3 tools/environment.py pytest tests/unit

The environment lives outside the tree, in $XDG_CACHE_HOME/trainbeacon (default ~/.cache/trainbeacon),
and is brought up to date when `pyproject.toml` or `tools/constraints.txt` changed. Needs nothing but
Python.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - whoever types `make` may have an older one
    sys.exit(
        "TrainBeacon needs Python 3.10 or later, and this is " + sys.version.split()[0] + ". "
        "Name another one: make PYTHON=/path/to/python3.12 ..."
    )

# After the check, so that an old Python reads the message above and not a traceback.
import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tools.stack import CACHE  # noqa: E402

CONSTRAINTS = REPOSITORY / "tools/constraints.txt"
#: torch first: asked for alone and exactly, it is taken before anything else can ask for a newer one.
STEPS = (
    ("torch (some 200 MB)", ["-r", str(CONSTRAINTS)]),
    ("TrainBeacon and its test tools", ["-c", str(CONSTRAINTS), "--editable", f"{REPOSITORY}[test]"]),
)
SHOWN = ("Collecting ", "Downloading ", "Installing ", "Building ", "Successfully ")


def location() -> Path:
    """Where the environment of this checkout and this Python lives."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    checkout = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:8]
    return CACHE / f"venv-{version}-{checkout}"


def wanted() -> str:
    """What the environment is made from, as one digest."""
    digest = hashlib.sha256()
    for path in (REPOSITORY / "pyproject.toml", CONSTRAINTS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def prepare(environment: Path) -> None:
    """Make the environment, or bring it up to date; returns at once if it is."""
    stamp = environment / "trainbeacon.stamp"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits, then finds it done
        if stamp.is_file() and stamp.read_text() == wanted() and works(environment):
            return
        say(f"setting up {environment} (only the first time, and when pyproject.toml changed)")
        if not works(environment):
            create(environment)
        for title, arguments in STEPS:
            say(f"installing {title}")
            install(environment, arguments)
        stamp.write_text(wanted())
        say("ready")


def works(environment: Path) -> bool:
    """Whether the environment's Python and pip run: the Python it was made from may be gone."""
    python = environment / "bin/python"
    command = [str(python), "-c", "import pip"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def create(environment: Path) -> None:
    """Make an empty environment in place of what is there."""
    shutil.rmtree(environment, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(environment)], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(environment, ignore_errors=True)
        sys.exit(
            f"{made.stdout}{made.stderr}\n{sys.executable} could not make a virtual environment. "
            "On Debian and Ubuntu its module is a package of its own: apt install python3-venv"
        )


def install(environment: Path, arguments: list[str]) -> None:
    """Run pip, showing its main lines; ends the program with its last lines if it fails."""
    log = environment / "pip.log"
    command = [str(environment / "bin/python"), "-m", "pip", "install", "--progress-bar", "off", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            if line.lstrip().startswith(SHOWN):
                say(f"  {line.strip()[:100]}")
    if process.wait():
        tail = "".join(log.read_text().splitlines(keepends=True)[-15:])
        sys.exit(f"{tail}\npip failed; all it said is in {log}. Run the same command again to go on.")


def say(text: str) -> None:
    """Report progress; the output of the command itself stays clean."""
    print(f"environment: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Prepare the environment and become the command."""
    environment = location()
    prepare(environment)
    if not sys.argv[1:]:
        print(environment)
        return
    path = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    os.environ.update(PATH=path, VIRTUAL_ENV=str(environment))
    os.environ.pop("PYTHONHOME", None)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
