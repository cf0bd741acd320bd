"""Postpone heavy imports until first use: help and configuration errors answer at once."""

import importlib.util
import sys
import threading
import types
from typing import Any

HEAVY = ("torch", "numpy")

_lock = threading.RLock()


class _LazyModule(types.ModuleType):
    """A module that runs its code when an attribute that it lacks is asked for.

    Unlike `importlib.util.LazyLoader`, whose modules load at the second ``import`` statement
    (reading ``__spec__`` counts as use), this one keeps ``__spec__`` readable. It has no
    ``__path__`` until it is loaded, so that importing a submodule loads it first.
    """

    def __getattr__(self, name: str) -> Any:
        """Load the module, then answer as it does."""
        with _lock:
            if type(self) is _LazyModule:
                _load(self)
        return getattr(self, name)


def _load(module: types.ModuleType) -> None:
    """Run a postponed module's code in place: whoever has bound it keeps a valid reference."""
    spec = module.__spec__
    if spec is None or spec.loader is None:
        raise ImportError(f"the postponed module '{module.__name__}' has lost its loader")
    module.__class__ = types.ModuleType
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    spec.loader.exec_module(module)


def defer_imports(names: tuple[str, ...] = HEAVY) -> None:
    """Make later ``import NAME`` statements bind a module that loads on its first attribute.

    Only entry points call this, before they import the schema. ``import torch`` costs about two
    seconds; a method file's fields do not need it, its ``__call__`` does. A module that is already
    loaded is left alone.

    Args:
        names: Top-level modules to postpone.

    Example:
        >>> import json
        >>> defer_imports(("json",))  # already loaded: nothing happens
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
    """Load what `defer_imports` postponed, before threads could race for the first attribute."""
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            getattr(module, "__version__", None)
