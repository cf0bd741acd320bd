"""What a finished ladder leaves in the storage and nobody needs: states to go on training from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.execution.training_states import discard_states
from orchestrator.locking.sweep_lock import is_driven
from orchestrator.records import SweepRecord
from orchestrator.store.filesystem import open_backend


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
    return discard_states(open_backend(storage), _keys(record), needed=needed)


def _needed(folder: Path) -> Iterator[str]:
    """Yield the keys of the results of a sweep that may go on."""
    try:
        record = SweepRecord.load(folder)
    except (OSError, ValueError):  # of an older format, or removed meanwhile
        return
    if not record.finalists or is_driven(folder):
        yield from _keys(record)


def _keys(record: SweepRecord) -> set[str]:
    return {use.key for trial in record.trials for use in trial.stages}
