"""Every setting and every option as ``docs/settings.md``: read from the schema and the commands.

``python -m orchestrator.cli.settings_page`` (or ``make docs``) writes the page.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast, get_args

from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from orchestrator.cli.catalog import allowed_text, cell, searched_text, value_text
from orchestrator.cli.main import app
from trainables.errors import type_name
from trainables.experiment import Experiment
from trainables.methods.method import Method, search_range
from trainables.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

HEAD = """\
# Settings

Every setting of a recipe, then every option of the command line. This page is generated from the
schema and the commands (`make docs`): change a docstring or a help text, not this page.

A recipe is a YAML file with the settings below; what it leaves out has its default. `--set` changes
one setting on the command line, by its dotted name, and wins over the file:

```sh
orchestrator plan --set classify.training.lr=0.05 --set data.profile.imbalance_factor=50
```

Where *allowed* is a link, the value is the name of a method, `loss: ldam`, or a name with settings,
`loss: {ldam: {max_margin: 0.3}}`. `--set classify.loss.ldam.max_margin=0.3` says the same.
*Searched* is the range in which a search space varies the setting.
"""
SETTINGS = "| setting | allowed | default | meaning |\n|---|---|---|---|\n"
COMMANDS = """
## Command line

`orchestrator COMMAND --help` prints the same with examples.
"""
OPTIONS = "| option | type | default | meaning |\n|---|---|---|---|\n"


class Section(NamedTuple):
    """One group of settings: its dotted name, what is said of it, and its rows."""

    path: str
    text: str
    rows: tuple[tuple[str, str, str, str], ...]  # dotted name, allowed, default, meaning


def sections() -> list[Section]:
    """Return all settings by group, in the order of the schema.

    Groups of one class (trainings) are told once: whole where the defaults are those of the class,
    elsewhere the settings whose default differs.

    Example:
        >>> {s.path: s for s in sections()}["evaluate"].rows[-1]
        ('evaluate.bins', 'int >= 1', '15', 'Bins of the calibration error.')
    """
    groups = list(_groups(Experiment(), ""))
    homes = {type(value): path for path, value in groups if value == type(value).model_construct()}
    return [_section(path, value, homes.get(type(value), path)) for path, value in groups]


def _groups(value: Settings, path: str) -> Iterator[tuple[str, Settings]]:
    """Yield a group and those below it; of a list the entry that has nothing but defaults."""
    yield path, value
    for name, field in type(value).model_fields.items():
        below = getattr(value, name, None)
        entry = _entry(field)
        if isinstance(below, Settings):
            yield from _groups(below, f"{path}.{name}".strip("."))
        elif entry is not None:
            yield f"{path}.{name}[]", entry.model_construct()


def _entry(field: FieldInfo) -> type[Settings] | None:
    """Return the class of a list's entries where they are settings."""
    inner = next(iter(get_args(field.annotation)), None)
    return inner if isinstance(inner, type) and issubclass(inner, Settings) else None


def _section(path: str, value: Settings, home: str) -> Section:
    cls = type(value)
    meanings = sentences(cls)
    rows = []
    for name, field in cls.model_fields.items():
        default = getattr(value, name, ...)
        if isinstance(default, Settings) or (home != path and default == field.default):
            continue
        text = "required" if default is ... else "[]" if default == () else value_text(default)
        searched = searched_text(search_range(field))
        meaning = f"{meanings[name]} *Searched:* {searched}." if searched else meanings[name]
        rows.append((f"{path}.{name}".strip("."), _allowed(field, f"{path}.{name}"), text, meaning))
    if home != path:
        return Section(path, f"As {_link(home)}, with other defaults:", tuple(rows))
    return Section(path, _docstring(cls)[0].strip(), tuple(rows))


def _link(path: str, title: str = "") -> str:
    return f"[{title or path}](#{''.join(c for c in path if c not in '.[]')})"


def _allowed(field: FieldInfo, path: str) -> str:
    """Return what a setting takes; of a method the link to its kind."""
    parts = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
    kind = next((part for part in parts if issubclass(part, Method)), None)
    if kind is None:
        return _link(f"{path}[]", "list") if _entry(field) else allowed_text(field)
    link = f"[{kind.kind}](methods.md#{kind.kind})"
    return link if kind is field.annotation else f"{link} | None"


def sentences(cls: type[Settings]) -> dict[str, str]:
    """Return what the ``Args:`` of a class's docstring say of each field, as Markdown.

    Example:
        >>> from trainables.experiment import Rebalance
        >>> sentences(Rebalance)
        {'method': 'The correction.'}
    """
    found: dict[str, str] = {}
    name = ""
    for line in _docstring(cls)[1].splitlines():
        text = line.strip()
        if text and not line.startswith(" "):
            break  # the next part of the docstring
        if line.startswith("    ") and line[4:5].strip():
            name, _, text = text.partition(": ")
        found[name] = f"{found.get(name, '')} {text}".strip()
    return found


def _docstring(cls: type[Settings]) -> tuple[str, str]:
    """Return what a class's docstring says before and after ``Args:``, as Markdown."""
    text, _, after = inspect.cleandoc(cls.__doc__ or "").replace("``", "`").partition("Args:\n")
    return text, after


def _commands(group: TyperGroup, words: str) -> Iterator[tuple[str, TyperCommand]]:
    """Yield every command that is shown, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{words} {name}")
        elif isinstance(command, TyperCommand) and not command.hidden:
            yield f"{words} {name}", command


def _options(command: TyperCommand) -> list[tuple[str, str, str, str]]:
    """Return a command's arguments and options: names, type, default, meaning."""
    signature = inspect.signature(command.callback, eval_str=True)  # type: ignore[arg-type]
    rows = []
    for option in command.params:
        if option.name not in signature.parameters or getattr(option, "hidden", False):
            continue
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        if option.param_type_name == "argument":
            names = f"`{option.opts[0].upper()}`"
        default = "" if option.default in (None, "") else value_text(option.default)
        kind = type_name(signature.parameters[option.name].annotation).removesuffix(" | None")
        text = getattr(option, "help", None) or ""
        rows.append((names, kind, "required" if option.required else default, text))
    return rows


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    return head + "".join("| " + " | ".join(map(cell, row)) + " |\n" for row in rows)


def render() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD]
    for path, text, rows in sections():
        parts.append(f"\n## {path or 'recipe'}\n\n{text}\n\n")
        parts.append(_table(SETTINGS, ((f"`{row[0]}`", *row[1:]) for row in rows)))
    parts.append(COMMANDS)
    for words, command in _commands(cast(TyperGroup, get_command(app)), "orchestrator"):
        parts.append(f"\n### {words}\n\n{' '.join((command.help or '').split())}\n")
        options = _options(command)
        parts.append(f"\n{_table(OPTIONS, options)}" if options else "")
    return "".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
