"""Debian's packages of Prometheus and Alertmanager, unpacked without root or a change to the machine.

They lie in $XDG_CACHE_HOME/trainbeacon/debian/SUITE (default ~/.cache/trainbeacon), with apt's own signatures
checked and all its state in a private folder. `default` is the machine's own suite; others, Debian only, are
later versions to try the rules on. Needs apt-get, dpkg-deb and Python's standard library, nothing else.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from trainbeacon.stack.binaries import cache_folder

CACHE = cache_folder()
DEBIAN = CACHE / "debian"
BINARIES = ("prometheus", "promtool", "alertmanager", "amtool")
PACKAGES = ("prometheus", "prometheus-alertmanager")


class NotAvailableError(Exception):
    """Why a suite cannot be had here."""


def is_unpacked(suite: str) -> bool:
    """Whether the cache holds the suite's four programs, ready to run."""
    tree = DEBIAN / suite / "usr"
    return all((tree / folder / name).exists() for folder in ("bin", "libexec") for name in BINARIES)


def suites() -> list[str]:
    """The suites that are unpacked."""
    return sorted(path.name for path in DEBIAN.glob("[!.]*") if is_unpacked(path.name))


def find(program: str, suite: str = "default") -> str | None:
    """The path of `prometheus`, `promtool`, `alertmanager` or `amtool`: from the PATH, else the cache."""
    if suite == "default":
        names = (program, "prometheus-alertmanager") if program == "alertmanager" else (program,)
        for name in names:
            if path := shutil.which(name):
                return path
    return str(DEBIAN / suite / "usr/bin" / program) if is_unpacked(suite) else None


def provide(suite: str, say: Callable[[str], None]) -> str:
    """Make the suite available; returns where it is, raises NotAvailableError with the reason.

    Blocks for a minute or two where it must be fetched, which `say` is called for.
    """
    DEBIAN.mkdir(parents=True, exist_ok=True)
    with (DEBIAN / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(find(program, suite) for program in BINARIES):
            say(f"fetching Prometheus and Alertmanager from Debian ({suite}) ...")
            with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=DEBIAN) as scratch:
                unpack(suite, Path(scratch), say)
    return str(find("prometheus", suite))


def unpack(suite: str, scratch: Path, say: Callable[[str], None]) -> None:
    """Download the suite's packages and unpack them, whole or not at all."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise NotAvailableError(
                f"this machine has no {program}; install Prometheus and Alertmanager yourself"
            )
    tree = scratch / "tree"
    apt = Apt(suite, scratch)
    apt.update(say)
    for package in PACKAGES:
        apt.unpack(package, tree)
    if not (tree / "usr/bin/promtool").exists():  # a package of its own in later suites
        apt.unpack("promtool", tree)
    relocate(tree / "usr")
    target = DEBIAN / suite
    if target.exists():
        target.rename(scratch / "incomplete")
    tree.rename(target)


#: Debian's builds read templates and pages from this folder and Alertmanager does not start without.
FIXED = b"/usr/share/prometheus"
#: As many bytes, so that nothing else in the program moves: the folder that the wrapper has opened.
OPENED = b"/proc/self/fd///////9"
WRAPPER = """\
#!/bin/sh
usr=$(dirname "$(dirname "$(readlink -f "$0")")")
exec 9<"$usr/share/trainbeacon" "$usr/libexec/{name}" "$@"
"""


def relocate(usr: Path) -> None:
    """Make the programs run from where they were unpacked, in any working folder."""
    (usr / "share/prometheus").rename(usr / "share/trainbeacon")
    (usr / "libexec").mkdir(exist_ok=True)
    (usr / "bin/prometheus-alertmanager").rename(usr / "bin/alertmanager")  # its name all over, but in Debian
    for name in BINARIES:
        wrapper, program = usr / "bin" / name, usr / "libexec" / name
        wrapper.rename(program)
        program.write_bytes(program.read_bytes().replace(FIXED, OPENED))
        wrapper.write_text(WRAPPER.format(name=name))
        wrapper.chmod(0o755)
        run([str(wrapper), "--version"])


class Apt:
    """apt-get on the machine's own mirrors and keys, with every file it writes in a private folder."""

    def __init__(self, suite: str, scratch: Path) -> None:
        self._folder = scratch
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (scratch / name).mkdir(parents=True)
        self._options = [
            f"-oDir::State::lists={scratch}/lists",
            f"-oDir::Cache={scratch}/cache",
            "-oAPT::Sandbox::User=",  # the private folder is not open to apt's own user
            "-oAcquire::Languages=none",
            "-oAPT::Update::Error-Mode=any",  # say what failed rather than find no package later
            "-oAcquire::Retries=2",
            "-oAcquire::http::Timeout=30",
            "-qq",
        ]
        if suite != "default":
            source = scratch / "suite.sources"
            source.write_text(sources_of(suite))
            self._options += [f"-oDir::Etc::sourcelist={source}", f"-oDir::Etc::sourceparts={scratch}/parts"]

    def update(self, say: Callable[[str], None]) -> None:
        """Fetch the package lists; a third-party source that fails is no reason to stop."""
        try:
            run(["apt-get", *self._options, "update"], self._folder)
        except NotAvailableError as reason:
            say(f"apt-get update: {reason}")

    def unpack(self, package: str, tree: Path) -> None:
        """Download one package and unpack it into the tree."""
        run(["apt-get", *self._options, "download", package], self._folder)
        for archive in self._folder.glob("*.deb"):
            run(["dpkg-deb", "--extract", str(archive), str(tree)])
            archive.unlink()


def run(command: list[str], folder: Path | None = None) -> None:
    """Run a command; raises NotAvailableError with its own reason if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailableError(str(error)) from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise NotAvailableError(next((word for word in words if word.startswith("E: ")), words[-1]))


def sources_of(suite: str, etc: Path = Path("/etc")) -> str:
    """The machine's own source of Debian, with another suite in its place."""
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', (etc / "os-release").read_text(), re.MULTILINE))
    if release.get("ID") != "debian":
        raise NotAvailableError(f"only Debian's own mirrors have the suite {suite}")
    own = {release.get("VERSION_CODENAME", ""), "stable", "testing", "unstable", "sid"} - {""}
    for stanza in stanzas(etc / "apt"):
        if own & set(stanza.get("Suites", "").split()) and "deb" in stanza.get("Types", "").split():
            changed = {**stanza, "Types": "deb", "Suites": suite, "Components": "main"}
            return "".join(f"{key}: {value}\n" for key, value in changed.items())
    raise NotAvailableError("no source of Debian itself was found in apt's configuration")


def stanzas(folder: Path) -> Iterator[dict[str, str]]:
    """The sources that apt is configured with, old form and new, as fields of the new form."""
    for path in sorted(folder.glob("sources.list.d/*.sources")):
        for text in re.split(r"\n\s*\n", path.read_text()):
            lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", lines, re.MULTILINE))
            if fields.get("Enabled", "yes") == "yes":
                yield fields
    for path in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))):
        for line in path.read_text().splitlines() if path.is_file() else ():
            if match := re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line):
                options, uri, name, components = match.groups()
                signed = re.search(r"signed-by=(\S+)", options or "")
                fields = {"Types": "deb", "URIs": uri, "Suites": name, "Components": components}
                yield {**fields, "Signed-By": signed[1]} if signed else fields
