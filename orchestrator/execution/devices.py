"""Device and working folder of a computing process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import torch


def pick_device(gpus: float) -> torch.device:
    """Return the device of a trial that holds ``gpus`` GPUs, the first GPU also for a fraction.

    Raises:
        ValueError: The trial holds GPUs, but torch finds none.
    """
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"the trial holds {gpus:g} GPUs, but torch finds none on this host")
    return torch.device("cuda", 0)


def work_in(folder: str) -> None:
    """Change to the driver's working folder, in which the relative paths of a recipe were written.

    Ray Tune runs each trial in a folder of its own. A host that lacks the driver's folder has one
    of its own instead, the same for all its processes, so that images below a relative
    ``data.root`` are decoded once per host; a relative path to images is refused by its name there.
    """
    if folder:
        os.chdir(folder if os.path.isdir(folder) else _substitute(folder))


def _substitute(folder: str) -> Path:
    """Return this host's and this user's private folder in place of one that is not here."""
    name = hashlib.sha256(folder.encode()).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"longtail-work-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.is_symlink() or private.stat().st_uid != os.getuid():
        raise PermissionError(f"{private} belongs to another user")
    (private / name).mkdir(exist_ok=True)
    return private / name
