"""Defer heavy imports until first use, so that help and configuration errors come at once."""

import importlib.util
import sys
import threading
import types
from typing import Any

HEAVY = ("torch", "numpy")

_lock = threading.RLock()


class _LazyModule(types.ModuleType):
    """A module that executes its code on the first access to a missing attribute.

    A module of `importlib.util.LazyLoader` loads at the second ``import`` statement, because
    reading ``__spec__`` counts as access; this module's ``__spec__`` can be read without loading.
    It has no ``__path__`` until it is loaded, so that the import of a submodule loads it first.
    """

    def __getattr__(self, name: str) -> Any:
        """Load the module, then return its attribute."""
        with _lock:
            if type(self) is _LazyModule:
                _load(self)
        return getattr(self, name)


def _load(module: types.ModuleType) -> None:
    """Execute a deferred module's code in place, so that existing references stay valid."""
    spec = module.__spec__
    if spec is None or spec.loader is None:
        raise ImportError(f"the deferred module '{module.__name__}' has no loader")
    module.__class__ = types.ModuleType
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    spec.loader.exec_module(module)


def defer_imports(names: tuple[str, ...] = HEAVY) -> None:
    """Make later ``import NAME`` statements bind a module that loads on its first attribute access.

    Only entry points call this, before they import the schema. ``import torch`` takes about two
    seconds, and a method's ``__call__`` needs torch, but its fields do not. Modules that are loaded
    already are not changed.

    Args:
        names: Top-level modules to defer.

    Example:
        >>> import json
        >>> defer_imports(("json",))  # loaded already, so no effect
        >>> json.dumps([1])
        '[1]'
    """
    for name in names:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            continue
        module = _LazyModule(name, None)
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        module.__package__ = spec.parent
        sys.modules[name] = module


def load_deferred(names: tuple[str, ...] = HEAVY) -> None:
    """Load the deferred modules, before threads race for their first attribute access."""
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            getattr(module, "__version__", None)
