"""Catalog of all methods, as rows and as the page ``docs/methods.md``.

The rows are read from the method classes. ``python -m orchestrator.cli.catalog`` (or ``make docs``)
writes the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainables.errors import ConfigError, did_you_mean, type_name
from trainables.methods import KINDS
from trainables.methods.method import Choice, Method, Range, search_range

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

MARK = "<!-- `make docs` writes what follows from the method files -->\n"


class Parameter(NamedTuple):
    """One hyper-parameter of a method, as text."""

    name: str
    allowed: str
    default: str
    searched: str


class Row(NamedTuple):
    """One method."""

    kind: str
    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    source: str
    oracle: bool


def rows(kind: str | None = None) -> list[Row]:
    """Return the methods of one kind or of all, by kind and name.

    Raises:
        ConfigError: No kind has this name.

    Example:
        >>> [row.name for row in rows("losses") if row.name == "cross_entropy"]
        ['cross_entropy']
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(
            f"unknown kind '{kind}'; allowed: {', '.join(sorted(KINDS))}{did_you_mean(kind, KINDS)}"
        )
    kinds = [kind] if kind else sorted(KINDS)
    return [_row(cls) for k in kinds for _, cls in sorted(KINDS[k].shelf.items())]


def _row(cls: type[Method]) -> Row:
    parameters = tuple(_parameter(name, field) for name, field in cls.model_fields.items())
    return Row(cls.kind, cls.name, cls.summary(), parameters, cls.sources(), cls.oracle)


def _parameter(name: str, field: FieldInfo) -> Parameter:
    default = "required" if field.default is PydanticUndefined else value_text(field.default)
    return Parameter(name, allowed_text(field), default, searched_text(search_range(field)))


def allowed_text(field: FieldInfo) -> str:
    """Return a field's type and bounds as text.

    Example:
        >>> from typing import Annotated
        >>> from pydantic import Field
        >>> allowed_text(FieldInfo.from_annotation(Annotated[float, Field(gt=0, le=1)]))
        'float > 0, <= 1'
    """
    return _bounded(_type_text(field.annotation), field.metadata)


def _type_text(annotation: Any) -> str:
    """Return a type as text, each member of a union with its own bounds.

    Example:
        >>> from pydantic import Field
        >>> _type_text(Annotated[int, Field(ge=8)] | None)
        'int >= 8 | None'
    """
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        parts = [part for mark in marks for part in getattr(mark, "metadata", [mark])]
        return _bounded(_type_text(inner), parts)
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_type_text, get_args(annotation)))
    return type_name(annotation)


def _bounded(text: str, marks: Iterable[object]) -> str:
    signs = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}
    bounds = [
        f"{sign} {getattr(mark, kind.__name__.lower()):g}"
        for mark in marks
        for kind, sign in signs.items()
        if isinstance(mark, kind)
    ]
    return " ".join(part for part in (text, ", ".join(bounds)) if part)


def value_text(value: object) -> str:
    """Return a default as it is written in YAML."""
    if isinstance(value, Method):
        return value.name
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def searched_text(mark: Range | Choice | None) -> str:
    """Return a search range as text.

    Example:
        >>> searched_text(Range(0.1, 10.0, log=True)), searched_text(Choice((1, 2)))
        ('0.1 .. 10 (log)', '1, 2')
    """
    if mark is None:
        return ""
    if isinstance(mark, Choice):
        return ", ".join(value_text(v) for v in mark.values)
    extra = [word for word, on in (("log", mark.log), (f"step {mark.step}", mark.step)) if on]
    return f"{mark.low:g} .. {mark.high:g}" + (f" ({', '.join(extra)})" if extra else "")


def page() -> str:
    """Return the page as it should be: its hand-written beginning, then every method.

    Raises:
        ValueError: The page has lost the mark between the two.
    """
    written, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE} must hold the line {MARK.strip()}")
    return written + MARK + render()


def render() -> str:
    """Return every method as Markdown, by kind and name."""
    parts = []
    for kind in sorted(KINDS):
        parts.append(f"\n## {kind}\n\n{KINDS[kind].summary()}\n")
        parts.extend(_section(row) for row in rows(kind))
    return "".join(parts)


def _section(row: Row) -> str:
    """Return one method's part of the page."""
    note = " *An upper bound, which promotion refuses.*" if row.oracle else ""
    lines = [f"\n### {row.name}\n", f"{row.summary}{note}\n"]
    if row.parameters:
        lines.append("| hyper-parameter | allowed | default | searched |\n|---|---|---|---|")
        lines.extend(
            f"| `{p.name}` | {cell(p.allowed)} | {cell(p.default)} | {cell(p.searched)} |"
            for p in row.parameters
        )
        lines.append("")
    if row.source:
        lines.append(f"Source: {row.source}\n")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Keep a text inside its table cell."""
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
