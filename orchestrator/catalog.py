"""The shelves as rows and as ``docs/methods.md``: read from the method files, never listed by hand.

``python -m orchestrator.catalog`` (or ``make docs``) writes the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainables.errors import ConfigError, did_you_mean, type_name
from trainables.methods import KINDS
from trainables.methods.method import Choice, Method, Range, search_range

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"

HEAD = """\
# Methods

Every method that an experiment or a search space can name. This page is generated from the method
files (`make docs`): change the docstring or the field, not this page.

A method is one file, `trainables/methods/<kind>/<name>.py`. In an experiment it is written by its
name, `loss: ldam`, or with settings, `loss: {ldam: {max_margin: 0.3}}`; on the command line
`--set classify.loss=ldam --set classify.loss.max_margin=0.3`. *Searched* is the range that a search
space uses when it says "any method of this kind"; a hyper-parameter without one keeps its default.
"""


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
        ConfigError: There is no such kind.

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
    default = "required" if field.default is PydanticUndefined else _value(field.default)
    return Parameter(name, _allowed(field), default, _searched(search_range(field)))


def _allowed(field: FieldInfo) -> str:
    """Return a field's type and bounds as text.

    Example:
        >>> from typing import Annotated
        >>> from pydantic import Field
        >>> _allowed(FieldInfo.from_annotation(Annotated[float, Field(gt=0, le=1)]))
        'float > 0, <= 1'
    """
    signs = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}
    bounds = [
        f"{sign} {getattr(mark, kind.__name__.lower()):g}"
        for mark in field.metadata
        for kind, sign in signs.items()
        if isinstance(mark, kind)
    ]
    return " ".join(part for part in (type_name(field.annotation), ", ".join(bounds)) if part)


def _value(value: object) -> str:
    """Return a default as it is written in YAML."""
    if isinstance(value, Method):
        return value.name
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _searched(mark: Range | Choice | None) -> str:
    """Return a search range as text.

    Example:
        >>> _searched(Range(0.1, 10.0, log=True)), _searched(Choice((1, 2))), _searched(None)
        ('0.1 .. 10 (log)', '1, 2', '')
    """
    if mark is None:
        return ""
    if isinstance(mark, Choice):
        return ", ".join(_value(v) for v in mark.values)
    extra = [word for word, on in (("log", mark.log), (f"step {mark.step}", mark.step)) if on]
    return f"{mark.low:g} .. {mark.high:g}" + (f" ({', '.join(extra)})" if extra else "")


def render() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD]
    for kind in sorted(KINDS):
        parts.append(f"\n## {kind}\n\n{KINDS[kind].summary()}\n")
        parts.extend(_section(row) for row in rows(kind))
    return "".join(parts)


def _section(row: Row) -> str:
    """Return one method's part of the page."""
    note = " *An upper bound: refused by promotion.*" if row.oracle else ""
    lines = [f"\n### {row.name}\n", f"{row.summary}{note}\n"]
    if row.parameters:
        lines.append("| hyper-parameter | allowed | default | searched |\n|---|---|---|---|")
        lines.extend(
            f"| `{p.name}` | {_cell(p.allowed)} | {_cell(p.default)} | {_cell(p.searched)} |"
            for p in row.parameters
        )
        lines.append("")
    if row.source:
        lines.append(f"Source: {row.source}\n")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Keep a text inside its table cell."""
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
