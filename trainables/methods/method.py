"""A method is one file: a frozen, validated class whose fields are its hyper-parameters.

Direct subclasses of `Method` are *kinds* (a folder below ``trainables/methods``); subclasses of a
kind are *methods* (a file in that folder, which gives the name). Nothing is listed by hand.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from trainables.errors import ConfigError, did_you_mean, explain, short
from trainables.methods.shelf import Shelf


@dataclass(frozen=True)
class Range:
    """A search range for a number, used in a field's annotation.

    Args:
        low: Smallest value, inclusive.
        high: Largest value, inclusive.
        log: Draw uniformly in the logarithm.
        step: Distance of allowed values; ``None`` for a continuum.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Choice:
    """A search range of listed values, used in a field's annotation.

    Args:
        values: The values.
        aliases: Former names of values, with the value that each stands for.
    """

    values: tuple[str | int | float | bool, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ContentOfFile:
    """A mark in a field's annotation: the text is a path, and keys take the content there.

    Args:
        prefix: What a text starts with that is a path; other texts of the field are none.

    Example:
        >>> ContentOfFile("local-dir:").path("local-dir:weights"), ContentOfFile().path("a.bin")
        ('weights', 'a.bin')
        >>> ContentOfFile("local-dir:").path("resnet18")
        ''
    """

    prefix: str = ""

    def path(self, text: str) -> str:
        """Return the path in a text, empty if there is none."""
        return text.removeprefix(self.prefix) if text.startswith(self.prefix) else ""


def path_mark(field: FieldInfo) -> ContentOfFile | None:
    """Return the mark of a field whose text may be a path."""
    return next((mark for mark in field.metadata if isinstance(mark, ContentOfFile)), None)


class UnknownNameError(ConfigError):
    """A name that is not on its shelf; the message lists the shelf and the nearest name."""


class Method(BaseModel):
    """Base of every kind of method.

    In a configuration a method is written as its name (``ldam``) or as a name with settings
    (``{ldam: {max_margin: 0.3}}``); it is dumped in the second form.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    # of a kind: former names of its methods, with the name of today; the first that it had first
    aliases: ClassVar[Mapping[str, str]] = {}
    oracle: ClassVar[bool] = False  # an upper bound that reads what a deployment cannot know
    extra_views: ClassVar[frozenset[str]] = (
        frozenset()
    )  # views that its stage gets for its sake alone
    shelf: ClassVar[Shelf[Any]]  # of the kind's methods
    __call__: ClassVar[Callable[..., Any]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Put the class on its shelf; two claims on one name are refused."""
        super().__pydantic_init_subclass__(**kwargs)
        last = cls.__module__.rpartition(".")[2]
        if Method in cls.__bases__:
            cls.kind, cls.shelf = last, Shelf(cls.__module__)
            return
        cls.name = last
        if cls.name in cls.aliases:
            raise TypeError(
                f"{cls.kind}: '{cls.name}' is a former name of '{cls.aliases[cls.name]}', which "
                f"recipes from before mean by it; {cls.__module__}.{cls.__qualname__} needs another"
            )
        other = cls.shelf.get(cls.name)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise TypeError(
                f"two {cls.kind} claim the name '{cls.name}': "
                f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}"
            )
        cls.shelf[cls.name] = cls

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let a field annotated with a kind accept any method on that kind's shelf."""
        if BaseModel in cls.__bases__ or Method not in cls.__bases__:
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda m: m.dump()),
        )

    @classmethod
    def parse(cls, value: object) -> Self:
        """Build a method of this kind from a name, a ``{name: settings}`` mapping or an instance.

        Raises:
            UnknownNameError: The name is not on the shelf, or the value has another form.
            ConfigError: The settings do not fit the method's fields (one line).
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, Mapping) or len(value) != 1:
            raise UnknownNameError(cls.how_to_write(value))
        ((name, settings),) = value.items()
        found = cls.lookup(str(name))
        try:
            return cast(
                Self, found.model_validate_json(json.dumps({} if settings is None else settings))
            )
        except ValidationError as error:
            raise ConfigError(explain(found, error.errors()[0], found.name)) from None

    @classmethod
    def how_to_write(cls, received: object) -> str:
        """Say how a method of this kind is written."""
        return (
            f"one of {cls.kind} is written as a name or as {{name: {{setting: value}}}}; "
            f"allowed names: {', '.join(sorted(cls.shelf))}; received {short(received)}"
        )

    @classmethod
    def lookup(cls, name: str) -> type[Method]:
        """Return the class that is called ``name``, or was, on this kind's shelf.

        Raises:
            UnknownNameError: There is none; the message lists the shelf.
        """
        name = cls.current_name(name)
        if name not in cls.shelf:
            known = sorted(cls.shelf)
            raise UnknownNameError(
                f"unknown name '{name}' in {cls.kind}; allowed: {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        found: type[Method] = cls.shelf[name]
        return found

    @classmethod
    def current_name(cls, name: str) -> str:
        """Return the name that a method of this kind has now; an unknown name as it is."""
        return cls.aliases.get(name, name)

    @classmethod
    def first_name(cls) -> str:
        """Return the name that this method had at first, which digests of recipes keep."""
        return next((old for old, name in cls.aliases.items() if name == cls.name), cls.name)

    def dump(self) -> dict[str, dict[str, Any]]:
        """Return the method as ``{name: {field: value}}``, the form `parse` reads."""
        return {self.name: self.model_dump(mode="json")}

    @classmethod
    def required_inputs(cls, function: str = "__call__") -> frozenset[str]:
        """Return the names of the keyword-only arguments without default that a call must get."""
        return _keywords(cls, function)[0]

    @classmethod
    def accepted_inputs(cls, function: str = "__call__") -> frozenset[str]:
        """Return the names of all keyword-only arguments of a call, optional ones included."""
        return frozenset().union(*_keywords(cls, function))

    def call_with(self, available: Mapping[str, Any], function: str = "__call__") -> Any:
        """Call the method with those of the ``available`` arguments that its signature names.

        Args:
            available: Arguments by name; more than needed is fine.
            function: ``"__call__"`` or another method of the class, e.g. ``"fit"``.

        Raises:
            TypeError: A needed argument is not available; the message lists what is.
        """
        required, optional = _keywords(type(self), function)
        missing = required - available.keys()
        if missing:
            raise TypeError(missing_message(self, missing, available))
        wanted = {k: v for k, v in available.items() if k in required or k in optional}
        return getattr(self, function)(**wanted)

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the class docstring, or that there is none."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0] or "(no docstring)"

    @classmethod
    def sources(cls) -> str:
        """Return the ``Source:`` section of the class docstring as one line."""
        _, found, rest = inspect.cleandoc(cls.__doc__ or "").partition("Source:")
        lines: list[str] = []
        for line in rest.splitlines() if found else []:
            if line and not line.startswith(" "):
                break
            lines.append(line.strip())
        return " ".join(part for part in lines if part)


def missing_message(method: Method, missing: Iterable[str], available: Iterable[str]) -> str:
    """Say in one line which arguments a method needs and does not get."""
    return (
        f"{method.kind}/{method.name} needs {', '.join(sorted(missing))}; "
        f"available here: {', '.join(sorted(available)) or 'nothing'}"
    )


@cache
def _keywords(cls: type[Method], function: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return (required, optional) keyword-only argument names of a method's function."""
    parameters = inspect.signature(getattr(cls, function)).parameters.values()
    keyword = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    required = frozenset(p.name for p in keyword if p.default is inspect.Parameter.empty)
    return required, frozenset(p.name for p in keyword) - required


def search_range(field: FieldInfo) -> Range | Choice | None:
    """Return the `Range` or `Choice` in a field's annotation, or ``None``: not searched."""
    for mark in field.metadata:
        if isinstance(mark, Range | Choice):
            return mark
    return None
