"""Checkpoints inside a stage: a training that died goes on, and ends as if it had not."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.context import Context
from trainables.training.distributed import shared
from trainables.training.optimizers import Optimizer

logger = logging.getLogger(__name__)

SHARE_OF_TIME = 0.04  # checkpoints may cost this much of the training, however slow the disk is
KEPT_FILES = 2  # the newest, and the one before it in case that the newest is damaged
DIGEST_BYTES = 32


class Parts(NamedTuple):
    """What is saved and loaded in place.

    ``averages`` are running means: linear in what they average, so that those of several workers
    can be averaged themselves.
    """

    modules: Mapping[str, torch.nn.Module]
    optimizer: Optimizer
    averages: Mapping[str, Tensor]


class Checkpoints:
    """Saves a training at the end of epochs, and finds it again.

    An epoch that ends within ``context.checkpoint_seconds`` after the last checkpoint is not
    saved, nor one that ends before the last checkpoint's cost is 4 % of the time: short trainings
    write nothing. Draws need no state, because every generator is seeded by its epoch.

    Only the first worker writes and reads; the others get what it read.

    Args:
        context: Its ``folder`` is where files go; ``None`` keeps nothing.
        name: Tells the trainings of one stage apart.
        parts: What is saved.
    """

    def __init__(self, context: Context, name: str, parts: Parts) -> None:
        self.context, self.parts = context, parts
        self.name = name.replace("/", "-")
        self.saved = time.monotonic()
        self.cost = 0.0

    def restore(self) -> list[dict[str, float]]:
        """Load the newest valid checkpoint and return the reports of the epochs that it holds."""
        state = _newest_state(self.context, self.name)
        self.saved = time.monotonic()
        if state is None:
            return []
        for name, module in self.parts.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, tensor in self.parts.averages.items():
            tensor.copy_(state["averages"][name])
        self.parts.optimizer.load_state_dict(state["optimizer"])
        reports: list[dict[str, float]] = state["reports"]
        logger.info("%s goes on after epoch %d", self.name, len(reports))
        return reports

    def save_if_due(self, reports: list[dict[str, float]], *, at_once: bool = False) -> None:
        """Save after the epoch that made the last of ``reports``, unless that is too soon.

        Args:
            reports: Of all epochs so far.
            at_once: It is never too soon: a longer training will go on from here.
        """
        start = time.monotonic()
        seconds = 0.0 if at_once else self.context.checkpoint_seconds
        wait = max(seconds, self.cost / SHARE_OF_TIME) if seconds else 0.0
        if self.context.folder is None or self.context.rank or start - self.saved < wait:
            return
        state = {
            "modules": {name: module.state_dict() for name, module in self.parts.modules.items()},
            "averages": dict(self.parts.averages),
            "optimizer": self.parts.optimizer.state_dict(),
            "reports": reports,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        path = self.context.folder / f"{self.name}.{len(reports):06d}.checkpoint"
        write_atomically(path, hashlib.sha256(payload).digest() + payload)
        for old in _files(self.context, self.name)[KEPT_FILES:]:
            old.unlink(missing_ok=True)
        self.saved = time.monotonic()
        self.cost = self.saved - start


def saved_reports(context: Context, name: str) -> list[dict[str, float]]:
    """Return the reports in the newest valid checkpoint of a training; without one, none."""
    state = _newest_state(context, name.replace("/", "-"))
    reports: list[dict[str, float]] = [] if state is None else state["reports"]
    return reports


def _newest_state(context: Context, name: str) -> dict[str, Any] | None:
    """Return what the newest valid checkpoint holds, the same on all workers."""
    payload = shared(_read(context, name) if context.rank == 0 else None, context)
    if payload is None:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    return state


def _read(context: Context, name: str) -> bytes | None:
    """Return the content of the newest file that is what was written."""
    for path in _files(context, name):
        content = path.read_bytes()
        digest, payload = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == digest:
            return payload
        logger.warning("%s is damaged and was ignored", path)
    return None


def _files(context: Context, name: str) -> list[Path]:
    """Return the checkpoints of a training, the newest first."""
    if context.folder is None:
        return []
    return sorted(context.folder.glob(f"{name}.*.checkpoint"), reverse=True)


def newest_epoch(folder: Path) -> int:
    """Return the epochs that the newest checkpoint in a stage's folder holds; 0: there is none."""
    return max((int(p.suffixes[-2][1:]) for p in folder.glob("*.*.checkpoint")), default=0)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent, also when power or process goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:  # the disk may be full
        draft.unlink(missing_ok=True)
