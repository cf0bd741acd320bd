"""Methods that recipes can name, one package per kind and one file per method.

Importing this package imports the kinds; a method's file is imported on first access (see `Shelf`).
"""

import importlib
import pkgutil

from trainables.methods.method import Method


def discover() -> dict[str, type[Method]]:
    """Import every subpackage and return the kinds by name.

    Example:
        >>> {"heads", "losses", "samplers"} <= set(discover())
        True
    """
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        importlib.import_module(module.name)
    return {kind.kind: kind for kind in Method.__subclasses__()}


KINDS = discover()
