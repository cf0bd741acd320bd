"""What a study has tried, as numbers: a column per parameter, a row per trial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]


class Observations:
    """Reads each trial's parameters once it has ended, and those of running trials again.

    Example:
        >>> from optuna.distributions import FloatDistribution
        >>> from optuna.trial import create_trial
        >>> trial = create_trial(
        ...     params={"lr": 0.1}, distributions={"lr": FloatDistribution(0.0, 1.0)}, value=1.0
        ... )
        >>> trial.number = 2
        >>> tried = Observations()
        >>> tried.read([trial])
        >>> tried.of(["lr"], np.array([2])), len(tried.of(["lr", "momentum"], np.array([2])))
        (array([[0.1]]), 0)
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # column of each name
        self._table = np.full((0, 0), np.nan)  # Optuna's internal numbers, NaN: there is none
        self._ended: set[int] = set()

    def read(self, trials: Iterable[FrozenTrial]) -> None:
        """Take over what is not known yet."""
        for trial in trials:
            if trial.number in self._ended:
                continue
            places = [self._places.setdefault(n, len(self._places)) for n in trial.params]
            self._grow(trial.number + 1, len(self._places))
            kinds = trial.distributions
            self._table[trial.number, places] = [
                kinds[name].to_internal_repr(value) for name, value in trial.params.items()
            ]
            if trial.state.is_finished():
                self._ended.add(trial.number)

    def of(self, names: Sequence[str], trials: Numbers) -> Array:
        """Return the rows of those trials that have all the parameters, ``[trial, name]``.

        Args:
            names: Parameters, one or more.
            trials: Numbers of trials that were read.
        """
        if not self._places.keys() >= set(names):
            return np.empty((0, len(names)))
        places = [self._places[name] for name in names]
        found: Array = self._table[trials[:, None], places]
        complete: Array = found[~np.isnan(found).any(axis=1)]
        return complete

    def _grow(self, rows: int, columns: int) -> None:
        """Make room for so many, and for as many again."""
        old_rows, old_columns = self._table.shape
        if rows > old_rows or columns > old_columns:
            wider = np.full((max(old_rows, 2 * rows), max(old_columns, 2 * columns)), np.nan)
            wider[:old_rows, :old_columns] = self._table
            self._table = wider
