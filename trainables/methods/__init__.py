"""The shelves: one folder per kind, one file per method. Importing this finds them all.

An import error in a method file is never swallowed: it stops the import.
"""

import importlib
import pkgutil

from trainables.methods.method import Method


def discover() -> dict[str, type[Method]]:
    """Import every module below this package and return the kinds by name.

    Example:
        >>> {"heads", "losses", "samplers"} <= set(discover())
        True
    """
    for module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
        importlib.import_module(module.name)
    return {kind.kind: kind for kind in Method.__subclasses__()}


KINDS = discover()
