"""In which order the runs of a table start: useful results early, no two train one trunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from trainables.settings import canonical_json

if TYPE_CHECKING:
    from orchestrator.tables import Recipe

TRUNK = ("data", "pretrain", "classify")  # the settings that a trained trunk is made from


class Trunk(NamedTuple):
    """A trained trunk: the recipe of its training, as a digest, and its seed."""

    training: str
    seed: int


def trunk_of(run: Recipe) -> Trunk:
    """Return what runs have in common when they share the trained trunk.

    It follows from settings alone, so nothing is loaded for it; the stage store has the last word.
    """
    tree = run.experiment.model_dump(mode="json", include=set(TRUNK))
    digest = hashlib.sha256(canonical_json(tree).encode()).hexdigest()
    return Trunk(digest, run.experiment.seed)


def num_seeds(runs: Iterable[Recipe]) -> int:
    """Return of how many seeds the runs are."""
    return len({run.experiment.seed for run in runs})


class StartOrder:
    """Chooses which run of a table starts next.

    First a run whose trunk is trained: it takes seconds and fills a row. Otherwise the next run, in
    the table's order (seed by seed, factor by factor), whose trunk nobody trains at the moment: a
    second run of the same trunk would hold a worker while it waits for the first. With one worker
    this gives each trunk followed by its rows; with several, as many distinct trunks as workers.

    Trunks that differ in their seed alone may be trained together, by whoever starts the first of
    their runs (`together`).

    Args:
        runs: Runs in the table's order.
        fuse: How many trunks are trained together.

    Example:
        >>> order = StartOrder([])
        >>> order.next() is None
        True
    """

    def __init__(self, runs: Iterable[Recipe], fuse: int = 1) -> None:
        self._pending = {number: trunk_of(run) for number, run in enumerate(runs)}
        self._fuse = fuse
        self._running: dict[int, list[Trunk]] = {}  # what it trains, its own trunk first
        self._trained: set[Trunk] = set()

    def next(self) -> int | None:
        """Return the position of the run to start now; ``None``: none, or none yet."""
        in_training = {t for own in self._running.values() for t in own} - self._trained
        candidates = [n for n, trunk in self._pending.items() if trunk not in in_training]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda n: (self._pending[n] not in self._trained, n))
        self._running[chosen] = [self._pending.pop(chosen)]
        return chosen

    def together(self, position: int) -> list[int]:
        """Return the positions of runs whose trunks to train with that of a run that starts.

        One run for each trunk, itself the first; none where nothing is to be trained together.
        Nobody else is given one of these trunks until the run has ended.
        """
        (own,) = self._running[position]
        busy = self._trained | {t for trunks in self._running.values() for t in trunks}
        found: dict[Trunk, int] = {}
        for number, trunk in self._pending.items():
            if trunk.training == own.training and trunk not in busy:
                found.setdefault(trunk, number)
        chosen = list(found.items())[: self._fuse - 1]
        if own in self._trained or not chosen:
            return []
        self._running[position] += [trunk for trunk, _ in chosen]
        return [position, *(number for _, number in chosen)]

    def finished(self, position: int, *, trained: bool = True) -> None:
        """Note that a run ended; ``trained=False``: its trunks may not be there."""
        trunks = self._running.pop(position)
        if trained:
            self._trained.update(trunks)
