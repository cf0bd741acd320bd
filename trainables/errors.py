"""One-line errors: what, whose, allowed, received, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """A configuration that cannot be run: one line that says what, whose, allowed, received."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest of ``known``, or an empty string.

    Example:
        >>> did_you_mean("ldan", ["ldam", "focal"])
        "; did you mean 'ldam'?"
    """
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown_key(owner: str, name: object, known: Iterable[str]) -> str:
    """Say in one line that ``owner`` has no setting of that name.

    Example:
        >>> unknown_key("classify.training", "lrr", ["lr", "epochs"])
        "classify.training: unknown key 'lrr'; allowed: epochs, lr; did you mean 'lr'?"
    """
    names = sorted(known)
    return (
        f"{owner}: unknown key '{name}'; allowed: {', '.join(names) or 'no settings'}"
        f"{did_you_mean(str(name), names)}"
    )


def type_name(annotation: object) -> str:
    """Return an annotation as a reader would write it, e.g. ``float`` or ``'paper' | 'official'``.

    Example:
        >>> type_name(float | None)
        'float | None'
    """
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return "None" if annotation is type(None) else annotation.__name__
    arguments = get_args(annotation)
    if not arguments:
        return str(annotation)
    if isinstance(get_origin(annotation), type) and get_origin(annotation) in (tuple, list, dict):
        inner = ", ".join("..." if a is ... else type_name(a) for a in arguments)
        return f"{get_origin(annotation).__name__}[{inner}]"  # type: ignore[union-attr]
    words = (repr(a) if isinstance(a, str) else type_name(a) for a in arguments)
    return " | ".join(words)


def explain(cls: type[BaseModel], error: ErrorDetails, owner: str) -> str:
    """Turn the first pydantic error into one line.

    Args:
        cls: The class that was being validated.
        error: One entry of ``ValidationError.errors()``.
        owner: Dotted path (or method name) of ``cls``; may be empty at the top.
    """
    location = [str(part) for part in error["loc"]]
    holder = _descend(cls, location[:-1])
    parent = ".".join(part for part in (owner, *location[:-1]) if part) or "experiment"
    path = ".".join(part for part in (owner, *location) if part) or "experiment"
    if error["type"] == "extra_forbidden":
        return unknown_key(parent, location[-1], holder.model_fields if holder else ())
    if error["type"] == "missing":
        return f"{path}: required setting is missing"
    if error["type"] == "value_error":
        text = error["msg"].removeprefix("Value error, ")
        return text if text.startswith(path) else f"{path}: {text}"
    field = holder.model_fields.get(location[-1]) if holder and location else None
    allowed = f"; allowed type: {type_name(field.annotation)}" if field else ""
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{path}: {message}{allowed}; received {_short(error['input'])}"


def _descend(cls: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    """Return the settings class at a path below ``cls``, or ``None``."""
    here: Any = cls
    for part in location:
        if part.isdigit() and get_origin(here) is tuple:  # one of several settings
            here = get_args(here)[0]
            continue
        fields = getattr(here, "model_fields", {})
        if part not in fields:
            return here if isinstance(here, type) and issubclass(here, BaseModel) else None
        here = fields[part].annotation
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _short(value: object) -> str:
    """Return a value's text, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
