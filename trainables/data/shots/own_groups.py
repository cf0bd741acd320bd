"""The user's own groups (`--groups FILE | PATTERN`) and corrected labels (`--labels FILE`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.data.faults import some
from trainables.data.readers.tables import find_column, is_table, read_grid
from trainables.errors import ConfigError, did_you_mean, readable


def own_groups(
    groups: str | Path, folder: Path, paths: Sequence[str], class_names: Sequence[str]
) -> dict[str, str]:
    r"""Return the group of each file that the user gives one.

    A table says which files are a group, whatever their classes. What a pattern finds is a group of
    one class: files are numbered anew in each class folder more often than not, and a running
    number that all classes have would put all images into one group.

    Args:
        groups: A table with the columns path and group. Or a pattern of file names: a regular
            expression, whose part in parentheses is the group (``(cat\d+)_``), or a name with
            stars, of which the first stands for the group (``*_??.jpg``). With a slash it is a
            pattern of paths below the class folder (``(session\d+)/``, ``*/*.jpg``).
        folder: The folder of photos.
        paths: The files.
        class_names: The class of each file, as its folder says.

    Raises:
        ConfigError: There is no such table, it names a file that is not there or gives it two
            groups, or the pattern matches no file.
    """
    if not paths:
        return {}
    if is_table(Path(groups)) and "*" not in str(groups):
        return dict(_column("groups", "group", Path(groups), folder, paths))
    pattern = _pattern(str(groups))
    found = {}
    for path, class_name in zip(paths, class_names, strict=True):
        below = _below_class(path, folder, class_name)
        match = pattern.search(below if "/" in str(groups) else os.path.basename(path))
        if match and match[1]:
            found[path] = f"{class_name}/{match[1]}"
    if not found:
        raise ConfigError(
            f"groups: no file name matches '{groups}', such as "
            f"{readable(_below_class(paths[0], folder, class_names[0]))}; give a table with the "
            "columns path and group, a regular expression with the group in parentheses, or a name "
            "whose first * stands for the group"
        )
    return found


def _below_class(path: str, folder: Path, class_name: str) -> str:
    """Return the path of a file below the folder of its class, or below the folder of photos.

    Example:
        >>> _below_class("/photos/train/lynx/session1/7.jpg", Path("/photos"), "lynx")
        'session1/7.jpg'
    """
    parts = Path(os.path.relpath(path, folder)).parts
    first = parts.index(class_name) + 1 if class_name in parts[:-1] else 0
    return "/".join(parts[first:])


def corrected_labels(
    table: Path, folder: Path, paths: Sequence[str], class_names: Sequence[str]
) -> dict[str, str]:
    """Return the label of each file whose label a table corrects; files stay untouched.

    Args:
        table: Table with the columns path and label.
        folder: The folder of photos.
        paths: The files.
        class_names: The classes that there are.

    Raises:
        ConfigError: There is no such table, it names a file or class that is not there, or gives a
            file two labels.
    """
    labels = dict(_column("labels", "label", table, folder, paths))
    known = set(class_names)
    for path, label in labels.items():
        if label not in known:
            raise ConfigError(
                f"labels: {table} gives {readable(path)} the class '{label}', which has no folder; "
                f"classes: {some(sorted(known), most=12)}{did_you_mean(label, known)}"
            )
    return labels


def _column(
    setting: str, role: str, table: Path, folder: Path, paths: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the files that a table names, with what stands in its other column."""
    if not table.is_file():
        raise ConfigError(f"{setting}: file not found: {table}; give a table with path and {role}")
    grid = read_grid(table)
    places = []
    for name in ("path", role):
        place, text = find_column(name, grid.names, None)
        if place < 0:
            there = some([f"'{column}'" for column in grid.names], most=12) or "none"
            raise ConfigError(
                f"{setting}: {table} {text or f'has no column {name}; its columns: {there}'}"
            )
        places.append(place)
    here, before = set(paths), dict[str, tuple[int, str]]()
    for number, row in grid.rows:
        name, value = (row[place].strip() if place < len(row) else "" for place in places)
        found = _found(name, (folder, table.parent), here)
        if not found or not value:
            what = f"has no {role}" if found else f"names '{readable(name)}', no image of {folder}"
            raise ConfigError(f"{setting}: {table} line {number} {what}; complete or delete it")
        first, other = before.setdefault(found, (number, value))
        if other != value:
            raise ConfigError(
                f"{setting}: {table} line {number} gives {readable(name)} the {role} '{value}', "
                f"line {first} '{other}'; delete one of them"
            )
        yield found, value


def _found(name: str, roots: Sequence[Path], here: set[str]) -> str:
    """Return the file that a table names, relative to one of two folders; empty without."""
    tried = (os.path.abspath(os.path.join(root, name)) for root in roots)
    return next((path for path in tried if path in here), "")


def _pattern(text: str) -> re.Pattern[str]:
    r"""Return a pattern of file names whose first part in parentheses is the group.

    Example:
        >>> _pattern("*_??.jpg").search("cat7_02.jpg")[1]
        'cat7'
        >>> _pattern(r"([0-9]+)-").search("a12-3.png")[1]
        '12'
        >>> _pattern("*/*.jpg").search("2024/session1/cat7.jpg")[1]  # the innermost folder
        'session1'
    """
    expression = text
    if "(" not in text:
        parts = {"*": "([^/]*)", "?": "[^/]"}
        name = "".join(parts.get(letter, re.escape(letter)) for letter in text)
        expression = rf"(?:^|/){name}\Z"
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"groups: '{text}' is no regular expression ({error})") from None
    if not pattern.groups:
        raise ConfigError(
            f"groups: '{text}' says no group; put it in parentheses, or write a * for it"
        )
    return pattern
