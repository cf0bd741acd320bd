"""The parameters of a space, those that every recipe has and those that only some recipes have."""

from __future__ import annotations

from typing import Any, NamedTuple

from search_spaces.pick import Pick, Vary
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.method import Choice, Range


class Parameters(NamedTuple):
    """The parameters of a space by name.

    Attributes:
        always: Parameters that every recipe has, with the range or list that all recipes share.
        sometimes: Names of the other parameters, which exist only for certain values of another
            parameter, or whose range depends on another parameter.
    """

    always: dict[str, Range | Choice]
    sometimes: list[str]


class _Recipe:
    """Value source that returns given values, otherwise the base's, and collects the questions.

    Args:
        given: Values by name.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.asked: dict[str, Range | Choice] = {}
        self.values: dict[str, Any] = {}

    def answer(self, name: str, default: Any, allowed: Range | Choice, integer: bool) -> Any:
        """Return the given value, the default, or the first allowed value."""
        if isinstance(allowed, Choice) and default not in allowed.values:
            default = allowed.values[0]
        self.asked[name] = allowed
        self.values[name] = self.given.get(name, default)
        return self.values[name]


def check_vary(vary: Vary, base: Experiment, space: str) -> None:
    """Refuse a space's function that fails on the base recipe.

    Args:
        vary: The function.
        base: The base recipe.
        space: Name of the space, for messages.

    Raises:
        ConfigError: It raises an error, or returns no recipe.
    """
    try:
        found = vary(Pick(_Recipe({})), base)
    except ConfigError as error:
        raise ConfigError(f"search space '{space}': {error}") from None
    except Exception as error:  # code of the user
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"search space '{space}' fails on the base recipe: {reason}") from error
    if not isinstance(found, Experiment):
        raise ConfigError(f"search space '{space}' must return an Experiment; received {found!r}")


def parameters_of(vary: Vary, base: Experiment) -> Parameters:
    """Find the parameters of a space by generating recipes.

    Each listed value and both ends of each range occur in at least one recipe, which otherwise
    equals the recipe in which the parameter occurred first. A parameter is therefore found if the
    choices that it depends on can be made one after the other, each offered by the preceding one. A
    parameter that depends on two independent choices other than the base's may be missed.

    Args:
        vary: The space's function.
        base: The base experiment.

    Example:
        >>> from trainables.settings import assign
        >>> def vary(pick, base):
        ...     if pick.value("evaluate.bins", 15, Choice((10, 15))) == 10:
        ...         pick.value("seed", 0, Range(0, 9))
        ...     return assign(base, pick.changes)
        >>> found = parameters_of(vary, Experiment())
        >>> list(found.always), found.sometimes
        (['evaluate.bins'], ['seed'])
    """
    recipes: list[dict[str, Range | Choice]] = []
    waiting: list[dict[str, Any]] = [{}]
    seen: set[tuple[str, str]] = set()
    while waiting:
        recipe = _Recipe(waiting.pop())
        try:
            vary(Pick(recipe), base)
        except ConfigError:  # incompatible values, which no trial has
            continue
        recipes.append(recipe.asked)
        for name, allowed in recipe.asked.items():
            ends = (allowed.low, allowed.high) if isinstance(allowed, Range) else allowed.values
            for value in ends:
                if (name, repr(value)) not in seen:
                    seen.add((name, repr(value)))
                    if value != recipe.values[name]:
                        waiting.append({**recipe.values, name: value})
    names = {name: allowed for asked in recipes for name, allowed in asked.items()}
    always = {
        name: allowed
        for name, allowed in names.items()
        if all(asked.get(name) == allowed for asked in recipes)
    }
    return Parameters(always, sorted(names.keys() - always.keys()))
