"""What a finished ladder leaves in the storage and nobody needs: states to go on training from."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.continuation import discard_states
from orchestrator.filesystem import open_place
from orchestrator.records import SweepRecord


def discard_ended(record: SweepRecord, *, storage: str, folder: Path) -> int:
    """Remove the training states that the trials of a finished sweep left, and return how many.

    Those that another sweep beside it used stay while that one runs or is not finished. A sweep
    that is given more trials later trains the first epochs of old recipes again.

    Args:
        record: Of the sweep.
        storage: Stage storage.
        folder: The sweep's folder; those of other sweeps lie beside it.
    """
    if not any(trial.rung for trial in record.trials):
        return 0
    needed = {
        key
        for other in sorted(folder.parent.glob("*/sweep.json"))
        if other.parent != folder
        for key in _needed(other.parent)
    }
    return discard_states(open_place(storage), _keys(record), needed=needed)


def _needed(folder: Path) -> Iterator[str]:
    """Yield the keys of the results of a sweep that may go on."""
    try:
        record = SweepRecord.load(folder)
    except (OSError, ValueError):  # of an older format, or removed meanwhile
        return
    if not record.finalists or _is_driven(folder):
        yield from _keys(record)


def _keys(record: SweepRecord) -> set[str]:
    return {use.key for trial in record.trials for use in trial.stages}


def _is_driven(folder: Path) -> bool:
    """Say whether a process of this host holds the sweep (see `orchestrator.journal.claim`)."""
    try:
        handle = os.open(folder / "study.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
