"""What is said of the code that ran: the commit, and whether files differ from it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

SOURCE = ROOT / "orchestrator/environment.py"


def git(folder: Path, *words: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "safe.directory=*")
    command = ["git", *named, "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make_project(folder: Path) -> Path:
    """Return a project with nothing but the module under test and a package of methods."""
    (folder / "orchestrator").mkdir(parents=True)
    (folder / "orchestrator/environment.py").write_text(SOURCE.read_text("utf-8"), "utf-8")
    (folder / "trainables").mkdir()
    (folder / "trainables/loss.py").write_text("scale = 1\n", "utf-8")
    (folder / "README.md").write_text("text\n", "utf-8")
    (folder / ".gitignore").write_text("runs/\n__pycache__/\n", "utf-8")
    return folder


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = make_project(tmp_path / "origin")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def said(folder: Path, digits: int = 40, **environment: str) -> str:
    code = f"from orchestrator.environment import git_commit; print(git_commit({digits}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_plain_clone_says_its_commit(origin: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    commit = git(clone, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert said(clone) == commit
    assert said(clone, digits=12) == commit[:12]


def test_changed_code_is_said_and_not_cut_off(origin: Path) -> None:
    commit = git(origin, "rev-parse", "HEAD")
    (origin / "trainables/loss.py").write_text("scale = 2\n", "utf-8")
    assert said(origin) == f"{commit}+changes"
    assert said(origin, digits=12) == f"{commit[:12]}+changes"


def test_a_new_method_that_git_does_not_know_is_a_change(origin: Path) -> None:
    (origin / "trainables/poly.py").write_text("scale = 3\n", "utf-8")
    assert said(origin).endswith("+changes")


def test_texts_and_results_are_no_change_of_the_code(origin: Path) -> None:
    (origin / "README.md").write_text("other text\n", "utf-8")
    (origin / "runs").mkdir()
    (origin / "runs/results.json").write_text("{}", "utf-8")
    assert said(origin) == git(origin, "rev-parse", "HEAD")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_clone_of_another_owner_says_its_commit(origin: Path) -> None:
    commit = git(origin, "rev-parse", "HEAD")
    for path in (origin, *origin.rglob("*")):
        os.chown(path, 12345, 12345)
    refused = subprocess.run(
        ["git", "-C", str(origin), "rev-parse", "HEAD"],
        env={"PATH": os.environ["PATH"], "HOME": str(origin)},
        capture_output=True,
        check=False,
    )
    assert refused.returncode != 0
    assert said(origin, HOME=str(origin)) == commit


def test_an_archive_inside_another_repository_does_not_borrow_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "of something else")
    assert said(make_project(tmp_path / "unpacked")) == "unknown"


def test_a_process_started_by_a_git_hook_says_its_own_commit(origin: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    git(other, "commit", "--quiet", "--allow-empty", "-m", "of something else")
    assert said(origin, GIT_DIR=str(other / ".git")) == git(origin, "rev-parse", "HEAD")


def test_without_git_the_commit_is_unknown(origin: Path) -> None:
    assert said(origin, PATH="") == "unknown"
