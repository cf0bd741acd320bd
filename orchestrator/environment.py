"""Environment of a sweep: code version, host, package versions, resources."""

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
    """Return the commit of the code, with ``+changes`` if the working tree differs from it.

    The comparison covers the recipes and the packages, including untracked files, because a new
    method is a new file. The result is ``unknown`` without git, or if the surrounding repository
    does not track this project (an unpacked archive, a machine of ``ray up``).

    Args:
        digits: Number of digits to return, at most 40.
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
    # git refuses a clone that another user owns, as in a container, because the clone's settings
    # may name programs to run; this process already runs code of the clone.
    command = ["git", "-c", f"safe.directory={root}", "--no-optional-locks", "-C", str(root)]
    # if a git hook started this process, these variables name the hook's repository
    variables = {name: value for name, value in os.environ.items() if name not in REPOSITORY}
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        env=variables,
    )
    return done.stdout.strip()
