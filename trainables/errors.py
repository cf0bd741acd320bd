"""Error messages of one line: setting, allowed and received values, nearest known name."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from trainables.former_names import current_key


class ConfigError(ValueError):
    r"""Invalid configuration; one line with the setting, allowed and received values.

    Example:
        >>> print(ConfigError("unknown key 'two\nlines'"))
        unknown key 'two�lines'
    """

    def __init__(self, text: str) -> None:
        super().__init__(readable(text))


class Fault(NamedTuple):
    """One line about a data set.

    ``kind`` groups lines ("unreadable files"). A ``fatal`` fault stops a run; the others say what
    was left out, or read in another way than one might expect.
    """

    kind: str
    text: str
    fatal: bool = True


class DataError(ConfigError):
    """A data set that can't be used: the first fatal fault, and how many more there are."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        fatal = [fault for fault in self.faults if fault.fatal]
        more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
        super().__init__(f"{fatal[0].text}{more}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the faults: the message alone would not rebuild the error in another process."""
        return DataError, (self.faults,)


def is_control(character: str) -> bool:
    """Say whether a character is a control character, lone surrogate or separator of lines."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def readable(name: str) -> str:
    r"""Return a text in one line that any terminal, JSON document or database takes.

    Bytes that are no UTF-8 (Python holds them as lone surrogates) and control characters become
    the replacement character.

    Example:
        >>> readable("caf\udce9\n")
        'caf��'
    """
    return "".join("\ufffd" if is_control(character) else character for character in name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest of ``known``, or an empty string.

    Example:
        >>> did_you_mean("ldan", ["ldam", "focal"])
        "; did you mean 'ldam'?"
    """
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown_key(owner: str, name: object, known: Iterable[str]) -> str:
    """Return the message that ``owner`` has no setting ``name``.

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
    """Return an annotation as text, e.g. ``float`` or ``'paper' | 'official'``.

    Example:
        >>> type_name(float | None), type_name(Annotated[int, "any mark"] | None)
        ('float | None', 'int | None')
    """
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return "None" if annotation is type(None) else annotation.__name__
    arguments = get_args(annotation)
    if not arguments:
        return str(annotation)
    if get_origin(annotation) is Annotated:  # the rest are marks: bounds, search ranges
        return type_name(arguments[0])
    if isinstance(get_origin(annotation), type) and get_origin(annotation) in (tuple, list, dict):
        inner = ", ".join("..." if a is ... else type_name(a) for a in arguments)
        return f"{get_origin(annotation).__name__}[{inner}]"  # type: ignore[union-attr]
    words = (repr(a) if isinstance(a, str) else type_name(a) for a in arguments)
    return " | ".join(words)


def explain(cls: type[BaseModel], error: ErrorDetails, owner: str) -> str:
    """Convert a pydantic error to a message of one line.

    Args:
        cls: The validated class.
        error: An entry of ``ValidationError.errors()``.
        owner: Dotted path (or method name) of ``cls``; empty at the top level.
    """
    received = [str(part) for part in error["loc"]]
    location = _current_path(cls, received)
    holder = _descend(cls, location[:-1])
    parent = ".".join(part for part in (owner, *location[:-1]) if part) or "experiment"
    path = ".".join(part for part in (owner, *location) if part) or "experiment"
    if error["type"] == "extra_forbidden":
        if received[-1] != location[-1]:
            return f"{path}: also received as '{received[-1]}', its former name; give one of them"
        return unknown_key(parent, location[-1], holder.model_fields if holder else ())
    if error["type"] == "missing":
        return f"{path}: required setting is missing"
    if error["type"] == "value_error":
        text = error["msg"].removeprefix("Value error, ")
        return text if text.startswith(path) else f"{path}: {text}"
    field = holder.model_fields.get(location[-1]) if holder and location else None
    allowed = f"; allowed type: {type_name(field.annotation)}" if field else ""
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{path}: {message}{allowed}; received {short(error['input'])}"


def _current_path(cls: type[BaseModel], received: list[str]) -> list[str]:
    """Return a path below ``cls`` with the current names of settings."""
    path: list[str] = []
    for part in received:
        holder = _descend(cls, path)
        path.append(part if holder is None else current_key(holder, part))
    return path


def _descend(cls: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    """Return the settings class at a path below ``cls``, or ``None``."""
    here: Any = cls
    for part in location:
        if part.isdigit() and get_origin(here) is tuple:  # an element of a tuple of settings
            here = get_args(here)[0]
            continue
        fields = getattr(here, "model_fields", {})
        if part not in fields:
            return here if isinstance(here, type) and issubclass(here, BaseModel) else None
        here = fields[part].annotation
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def short(value: object) -> str:
    """Return the repr of a value, truncated to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
