"""The repository of a script, held against what git itself says of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainbeacon.identity.repository import MOST_FILES, Repository, repository_of

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Runs git in a repository of two commits: plain files, a link, and one in a folder."""

    def run(*words: str, folder: Path = tmp_path / "code") -> str:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        line = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    code = tmp_path / "code"
    (code / "models/deep").mkdir(parents=True)
    for name in ("train.py", "models/a.py", "models/ab.py", "models/deep/longer-name-of-a-file.py"):
        (code / name).write_text(f"# {name}\n")
    (code / "link").symlink_to("train.py")
    run("init", "--quiet", "--initial-branch=main")
    for message in ("first", "second"):
        run("add", "--all")
        run("commit", "--quiet", "--allow-empty", f"--message={message}")
    return run


def found(tmp_path: Path, folder: str = "code/models/deep") -> Repository:
    repository = repository_of(str(tmp_path / folder))
    assert repository is not None
    return repository


@pytest.mark.parametrize("version", [2, 3, 4])
def test_commit_branch_and_a_clean_tree(version: int, git: Git, tmp_path: Path) -> None:
    """From any folder below, whatever form the index has, also where times were touched."""
    git("update-index", f"--index-version={version}")
    os.utime(tmp_path / "code/train.py", (1, 1))
    expected = Repository(str(tmp_path / "code"), git("rev-parse", "HEAD"), "main", 0)
    assert expected == found(tmp_path)


def test_files_that_were_changed_or_are_gone(git: Git, tmp_path: Path) -> None:
    """As `git status` counts them; a new file that git does not follow is none of them."""
    (tmp_path / "code/train.py").write_text("# trein.py\n")  # of the same size
    (tmp_path / "code/models/a.py").unlink()
    (tmp_path / "code/link").unlink()
    (tmp_path / "code/link").symlink_to("models")
    (tmp_path / "code/new.py").touch()
    says = git("status", "--porcelain", "--untracked-files=no").splitlines()
    assert (3, 3) == (len(says), found(tmp_path).changed)


def test_packed_references_detached_heads_worktrees(git: Git, tmp_path: Path) -> None:
    """All ways in which a checkout says where it is."""
    head = git("rev-parse", "HEAD")
    git("pack-refs", "--all")
    assert (head, "main") == (found(tmp_path).commit, found(tmp_path).branch)
    git("worktree", "add", "--quiet", "-b", "try", str(tmp_path / "other"), "HEAD~1")
    other = found(tmp_path, "other")
    assert (git("rev-parse", "HEAD~1"), "try", 0) == (other.commit, other.branch, other.changed)
    git("checkout", "--quiet", "--detach")
    assert (head, "") == (found(tmp_path).commit, found(tmp_path).branch)


def test_before_the_first_commit(tmp_path: Path) -> None:
    """There is no commit yet, and nothing to compare with."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", tmp_path], check=True)
    assert Repository(str(tmp_path), "", "main", None) == repository_of(str(tmp_path))


def test_no_repository(tmp_path: Path) -> None:
    """A script that lies anywhere."""
    assert repository_of(str(tmp_path)) is None


def test_a_huge_repository_is_not_compared(git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says its commit, and that it does not know the rest."""
    assert MOST_FILES > 1000
    monkeypatch.setattr("trainbeacon.identity.repository.MOST_FILES", 2)
    assert (git("rev-parse", "HEAD"), None) == (found(tmp_path).commit, found(tmp_path).changed)
