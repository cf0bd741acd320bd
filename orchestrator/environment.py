"""Where and with what a sweep ran."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "mlflow", "numpy", "scikit-learn")
CODE = ("trainables", "search_spaces", "orchestrator", "experiments")
REPOSITORY = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"})


def environment(resources: dict[str, float]) -> dict[str, str]:
    """Return commit, host, Python, package versions and the cluster's resources as text."""
    found = {
        "git": git_commit(),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": f"{resources.get('CPU', 0):g}",
        "gpus": f"{resources.get('GPU', 0):g}",
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def git_commit(digits: int = 40) -> str:
    """Return the commit of the code, with ``+changes`` if the code differs from it.

    Code is what can change a result: the packages, of which a new file that git does not know yet
    is a part (a method is one file), and the recipes. ``unknown``: there is no git here, or this
    project is not in the repository that it lies in (an unpacked archive, a machine of `ray up`).

    Args:
        digits: How many of the commit's 40 digits.
    """
    root = Path(__file__).resolve().parent.parent
    try:
        _git(root, "ls-files", "--error-unmatch", "--", "orchestrator/environment.py")
        commit = _git(root, "rev-parse", "HEAD")[:digits]
        changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}+changes" if changes else commit


def _git(root: Path, *arguments: str) -> str:
    """Return the output of a git command, stripped."""
    # A clone of another owner, as in a container: git refuses it, because its settings may name
    # programs to run; the program that asks is this clone's own, so it is trusted already.
    command = ["git", "-c", f"safe.directory={root}", "--no-optional-locks", "-C", str(root)]
    # a hook or an alias that started this process has told git of its own repository
    own = {name: value for name, value in os.environ.items() if name not in REPOSITORY}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=True, timeout=10, env=own
    )
    return done.stdout.strip()
