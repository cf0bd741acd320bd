"""Search spaces, one per file, each with ``vary(pick, base)``; found by file name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from search_spaces.grid import points
from search_spaces.pick import Vary
from trainables.errors import ConfigError, did_you_mean
from trainables.experiment import Experiment

NOT_A_SPACE = frozenset({"grid", "parameters", "pick"})


def names() -> list[str]:
    """Return the names of the search spaces, which are files of this folder.

    Example:
        >>> names()
        ['ablation', 'families', 'frozen', 'full', 'long_tail', 'open_world', 'photos', 'update']
    """
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} - NOT_A_SPACE)


def resolve(space: str) -> str:
    """Return the import path of a space's function.

    Args:
        space: A name of `names`, or the import path ``package.module:function`` of another space.

    Raises:
        ConfigError: The space is unknown.

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


def own_module(name: str, owner: str) -> ModuleType:
    """Import a module of one's own; one in the working folder is found without PYTHONPATH.

    Args:
        name: Import path.
        owner: What names the module, for messages.

    Raises:
        ConfigError: Python does not find it, or it fails when it is imported.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{owner}: '{name}' is no module; a module is written package.module")
    folder, first = Path.cwd(), name.partition(".")[0]
    here = (folder / first).is_dir() or (folder / f"{first}.py").is_file()
    if here and not any(Path(entry or ".").resolve() == folder for entry in sys.path):
        sys.path.append(str(folder))  # last: a file tty.py in it hides no module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{owner}: there is no module '{error.name}', neither installed nor in {folder}"
            ) from None
        raise ConfigError(f"{owner}: {name} fails when it is imported: {error}") from error
    except Exception as error:  # code of the user
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{owner}: {name} fails when it is imported: {reason}") from error


def load(space: str) -> Vary:
    """Import a space's function.

    Args:
        space: See `resolve`.

    Raises:
        ConfigError: The module or the function does not exist.
    """
    function = resolve(space).partition(":")[2]
    module = _module(space)
    vary: Vary | None = getattr(module, function, None)
    if not callable(vary):
        known = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"search space '{space}': {module.__name__} has no function '{function}'"
            f"{did_you_mean(function, known)}"
        )
    return vary


def _module(space: str) -> ModuleType:
    """Import the module of a space."""
    return own_module(resolve(space).partition(":")[0], f"search space '{space}'")


def objectives(space: str) -> tuple[str, ...]:
    """Return a space's default objectives as ``metric:mode``, its module's ``OBJECTIVES``.

    Raises:
        ConfigError: The module has no ``OBJECTIVES``.

    Example:
        >>> objectives("long_tail")
        ('evaluate/accuracy/balanced:max',)
    """
    found = getattr(_module(space), "OBJECTIVES", ())
    if not (isinstance(found, tuple | list) and found):
        raise ConfigError(f"search space '{space}' has no OBJECTIVES; pass --objective METRIC:max")
    return tuple(map(str, found))


def grid(space: str, base: Experiment) -> list[dict[str, Any]]:
    """Return the parameters of all points of a grid (``GRID = True``), otherwise an empty list.

    Example:
        >>> len(grid("ablation", Experiment())), grid("long_tail", Experiment())
        (9, [])
    """
    return list(points(load(space), base)) if getattr(_module(space), "GRID", False) else []


def describe(space: str) -> str:
    """Return the docstring of a space's module, which describes the space."""
    return (_module(space).__doc__ or "").strip()
