"""The methods of one kind by name; a file is imported when its method is first asked for."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.methods.method import Method


class Shelf(MutableMapping[str, "type[Method]"]):
    """Names are known from the files of the kind's folder; reading a class imports its file.

    A recipe names a dozen of the methods, so help, plans and refused settings need not pay for all
    of them. An import error in a method file is never swallowed: reading the method raises it.

    Args:
        package: The kind's package; a module that is none has no files.

    Example:
        >>> from trainables.methods.losses import Loss
        >>> "ldam" in Loss.shelf, Loss.shelf["ldam"].__name__
        (True, 'LDAM')
    """

    def __init__(self, package: str) -> None:
        self._package = package
        folders = getattr(sys.modules.get(package), "__path__", ())
        names = sorted(module.name for module in pkgutil.iter_modules(folders))
        self._classes: dict[str, type[Method] | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> type[Method]:
        """Return the class of that name, which its file puts here when it is imported."""
        if self._classes[name] is None:
            importlib.import_module(f"{self._package}.{name}")
        found = self._classes[name]
        if found is None:
            raise KeyError(f"{self._package}.{name} defines no method of this kind")
        return found

    def __setitem__(self, name: str, method: type[Method]) -> None:
        """Put a class here."""
        self._classes[name] = method

    def __delitem__(self, name: str) -> None:
        """Take a name away."""
        del self._classes[name]

    def __contains__(self, name: object) -> bool:
        """Say whether there is a method of that name, without importing it."""
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Count the names."""
        return len(self._classes)
