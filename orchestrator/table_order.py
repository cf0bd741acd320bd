"""In which order the runs of a table start: useful results early, no two train one trunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trainables.settings import canonical_json

if TYPE_CHECKING:
    from orchestrator.tables import Recipe

TRUNK = ("data", "pretrain", "classify")  # the settings that a trained trunk is made from


def trunk_of(run: Recipe) -> str:
    """Return a digest that runs have in common when they share the trained trunk.

    It follows from settings alone, so nothing is loaded for it; the stage store has the last word.
    """
    tree = run.experiment.model_dump(mode="json", include={*TRUNK, "seed"})
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()


class StartOrder:
    """Chooses which run of a table starts next.

    First a run whose trunk is trained: it takes seconds and fills a row. Otherwise the next run, in
    the table's order (seed by seed, factor by factor), whose trunk nobody trains at the moment: a
    second run of the same trunk would hold a worker while it waits for the first. With one worker
    this gives each trunk followed by its rows; with several, as many distinct trunks as workers.

    Args:
        runs: Runs in the table's order.

    Example:
        >>> order = StartOrder([])
        >>> order.next() is None
        True
    """

    def __init__(self, runs: Iterable[Recipe]) -> None:
        self._pending = {number: trunk_of(run) for number, run in enumerate(runs)}
        self._running: dict[int, str] = {}
        self._trained: set[str] = set()

    def next(self) -> int | None:
        """Return the position of the run to start now; ``None``: none, or none yet."""
        in_training = set(self._running.values()) - self._trained
        candidates = [n for n, trunk in self._pending.items() if trunk not in in_training]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda n: (self._pending[n] not in self._trained, n))
        self._running[chosen] = self._pending.pop(chosen)
        return chosen

    def finished(self, position: int, *, trained: bool = True) -> None:
        """Note that a run ended; ``trained=False``: its trunk may not be there."""
        trunk = self._running.pop(position)
        if trained:
            self._trained.add(trunk)
