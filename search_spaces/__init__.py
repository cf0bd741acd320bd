"""What may vary: one file per study, found by its name, each with ``vary(pick, base)``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from search_spaces.grid import points
from search_spaces.pick import Pick
from trainables.errors import ConfigError, did_you_mean
from trainables.experiment import Experiment

Vary = Callable[[Pick, Experiment], Experiment]
NOT_A_SPACE = frozenset({"grid", "pick"})


def names() -> list[str]:
    """Return the names of the search spaces: the files of this folder.

    Example:
        >>> names()
        ['ablation', 'families', 'full', 'long_tail', 'open_world', 'update']
    """
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} - NOT_A_SPACE)


def resolve(space: str) -> str:
    """Return the import path of a space's function.

    Args:
        space: A name of `names`, or an import path ``package.module:function`` of your own.

    Raises:
        ConfigError: No space has that name.

    Example:
        >>> resolve("full")
        'search_spaces.full:vary'
    """
    if ":" in space:
        return space
    known = names()
    if space not in known:
        raise ConfigError(
            f"unknown search space '{space}'; allowed: {', '.join(known)}, or "
            f"package.module:function{did_you_mean(space, known)}"
        )
    return f"search_spaces.{space}:vary"


def load(space: str) -> Vary:
    """Import a space's function.

    Args:
        space: As for `resolve`.

    Raises:
        ConfigError: The module or the function does not exist.
    """
    module, _, function = resolve(space).partition(":")
    try:
        vary: Vary = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if not (error.name and f"{module}.".startswith(f"{error.name}.")):
            raise  # the space exists; something that it imports does not
        raise ConfigError(f"search space '{space}': there is no module {error.name}") from None
    except AttributeError:
        raise ConfigError(f"search space '{space}': {module} has no '{function}'") from None
    return vary


def objectives(space: str) -> tuple[str, ...]:
    """Return a space's own objectives as ``metric:mode``: its module's ``OBJECTIVES``.

    Raises:
        ConfigError: The module names none.

    Example:
        >>> objectives("long_tail")
        ('evaluate/accuracy/balanced:max',)
    """
    module = resolve(space).partition(":")[0]
    found: tuple[str, ...] = getattr(importlib.import_module(module), "OBJECTIVES", ())
    if not found:
        raise ConfigError(f"search space '{space}' has no OBJECTIVES; give --objective METRIC:max")
    return found


def grid(space: str, base: Experiment) -> list[dict[str, Any]]:
    """Return the parameters of every point of a space that is a grid (``GRID = True``), else none.

    Example:
        >>> len(grid("ablation", Experiment())), grid("long_tail", Experiment())
        (9, [])
    """
    module = importlib.import_module(resolve(space).partition(":")[0])
    return list(points(load(space), base)) if getattr(module, "GRID", False) else []


def describe(space: str) -> str:
    """Return the docstring of a space's module: what varies, and why."""
    module = importlib.import_module(resolve(space).partition(":")[0])
    return (module.__doc__ or "").strip()
