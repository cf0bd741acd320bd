"""Start order of a table's runs, in which no two runs train one backbone at the same time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trainables.settings import canonical_json

if TYPE_CHECKING:
    from orchestrator.tables.schema import Recipe

BACKBONE_SETTINGS = {"data", "pretrain", "classify", "seed"}  # settings of a trained backbone


def backbone_digest(run: Recipe) -> str:
    """Return a digest that is equal for runs with the same trained backbone.

    The digest is of settings only, so that no data are loaded; the stage store compares exact keys.
    """
    tree = run.experiment.model_dump(mode="json", include=BACKBONE_SETTINGS)
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()


class StartOrder:
    """Chooses the next run of a table to start.

    Runs whose backbone is trained come first, because each takes only seconds. Otherwise the next
    run, in the table's order (seed by seed, factor by factor), starts whose backbone no running run
    trains; a second run with the same backbone would hold a worker while waiting for the first.
    One worker therefore trains a backbone and then runs all its rows; several workers train as many
    distinct backbones.

    Args:
        runs: Runs in the table's order.

    Example:
        >>> order = StartOrder([])
        >>> order.next() is None
        True
    """

    def __init__(self, runs: Iterable[Recipe]) -> None:
        self._pending = {number: backbone_digest(run) for number, run in enumerate(runs)}
        self._running: dict[int, str] = {}
        self._trained: set[str] = set()

    def next(self) -> int | None:
        """Return the position of the run to start now; ``None`` if no run can start now."""
        in_training = set(self._running.values()) - self._trained
        candidates = [n for n, digest in self._pending.items() if digest not in in_training]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda n: (self._pending[n] not in self._trained, n))
        self._running[chosen] = self._pending.pop(chosen)
        return chosen

    def finished(self, position: int, *, trained: bool = True) -> None:
        """Note that a run ended; ``trained=False`` says that its backbone may not be stored."""
        digest = self._running.pop(position)
        if trained:
            self._trained.add(digest)
