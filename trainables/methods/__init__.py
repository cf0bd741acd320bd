"""The shelves: one folder per kind, one file per method. Importing this finds all kinds.

A method's file is imported when the method is first asked for (see `Shelf`).
"""

import importlib
import pkgutil

from trainables.methods.method import Method


def discover() -> dict[str, type[Method]]:
    """Import every package below this one and return the kinds by name.

    Example:
        >>> {"heads", "losses", "samplers"} <= set(discover())
        True
    """
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        importlib.import_module(module.name)
    return {kind.kind: kind for kind in Method.__subclasses__()}


KINDS = discover()
