"""Enumerate all points of a space whose choices are lists of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search_spaces.pick import Pick, Vary
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.method import Choice, Range


class _Walk:
    """Value source that answers with listed values by index, the base's value first.

    Questions beyond the given indices get the first value.
    """

    def __init__(self, places: list[int]) -> None:
        self.places = places
        self.trail: list[tuple[str, int, int]] = []  # name, index, number of values
        self.params: dict[str, Any] = {}

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the value at this question's index.

        Raises:
            ConfigError: The space asks for a number from a range.
        """
        if isinstance(allowed, Range):
            raise ConfigError(f"{name}: a range of numbers cannot be enumerated; list its values")
        asked = len(self.trail)
        place = self.places[asked] if asked < len(self.places) else 0
        values = sorted(allowed.values, key=lambda value: value != default)
        self.trail.append((name, place, len(values)))
        self.params[name] = values[place]
        return values[place]


def points(vary: Vary, base: Experiment) -> Iterator[dict[str, Any]]:
    """Yield the parameters of every point of a space, conditional choices included.

    The first point is the base, except for values of the base that the lists lack.

    Args:
        vary: The space's function; all its choices must be lists.
        base: The base experiment.

    Raises:
        ConfigError: The space asks for a number from a range.

    Example:
        >>> from trainables.settings import assign
        >>> def vary(pick, base):
        ...     if pick.value("evaluate.bins", 15, Choice((10, 15))) == 10:
        ...         pick.value("seed", 0, Choice((0, 1)))
        ...     return assign(base, pick.changes)
        >>> list(points(vary, Experiment()))
        [{'evaluate.bins': 15}, {'evaluate.bins': 10, 'seed': 0}, {'evaluate.bins': 10, 'seed': 1}]
    """
    places: list[int] = []
    while True:
        walk = _Walk(places)
        vary(Pick(walk), base)
        yield walk.params
        trail = walk.trail
        while trail and trail[-1][1] + 1 == trail[-1][2]:
            trail.pop()
        if not trail:
            return
        places = [place for _, place, _ in trail]
        places[-1] += 1
