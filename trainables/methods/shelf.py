"""Lazy mapping from method names to classes; a method's file is imported on first access."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, MutableMapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(MutableMapping[str, type[T]], Generic[T]):
    """Mapping from the names of a kind's files to classes; access to a class imports its file.

    A recipe names about a dozen methods, so the files of all others need not be imported. An error
    in a method's file is raised on access to the method.

    Args:
        package: The kind's package; a plain module has no method files.

    Example:
        >>> from trainables.methods.losses import Loss
        >>> "ldam" in Loss.shelf, Loss.shelf["ldam"].__name__
        (True, 'LDAM')
    """

    def __init__(self, package: str) -> None:
        self._package = package
        folders = getattr(sys.modules.get(package), "__path__", ())
        names = sorted(module.name for module in pkgutil.iter_modules(folders))
        self._classes: dict[str, type[T] | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> type[T]:
        """Return the class of a name; the import of its file registers the class."""
        if self._classes[name] is None:
            importlib.import_module(f"{self._package}.{name}")
        method = self._classes[name]
        if method is None:
            raise KeyError(f"{self._package}.{name} defines no method of this kind")
        return method

    def __setitem__(self, name: str, method: type[T]) -> None:
        """Register a class."""
        self._classes[name] = method

    def __delitem__(self, name: str) -> None:
        """Remove a name."""
        del self._classes[name]

    def __contains__(self, name: object) -> bool:
        """Say whether a method of that name exists, without importing its file."""
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._classes)
