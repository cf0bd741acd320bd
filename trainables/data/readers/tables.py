"""Tables of images: a CSV or Parquet file with a column of files and a column of classes.

File names are relative to the table's folder. Columns are recognized by their usual names, or set.
Commas, semicolons (Excel in many countries) and tabs part the columns of a CSV file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from trainables.data.faults import Fault, some
from trainables.data.readers.parts import is_test_of, is_validation
from trainables.data.readers.rows import Layout, Line, check_lines, read_text
from trainables.data.source_names import Columns
from trainables.errors import ConfigError, did_you_mean, readable

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
# usual names of columns, in lower case and with _ in place of spaces and hyphens
USUAL = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "fname"),
        *("image", "image_path", "image_file", "imagepath", "img", "img_path"),
    ),
    "label": ("label", "class", "class_name", "classname", "category", "target", "label_name"),
    "split": ("split", "part", "set", "subset", "partition"),
    "group": ("group", "group_id", "groups"),
}
REQUIRED = ("path", "label")


class Grid(NamedTuple):
    """The names of a table's columns, and its rows: number of the line, and a text per column."""

    names: list[str]
    rows: Iterable[tuple[int, Sequence[str]]]


def is_table(path: Path) -> bool:
    """Say whether a file's name ends as those of tables do."""
    return path.suffix.casefold() in (*CSV, *PARQUET)


def scan_table(table: Path, columns: Columns, *, skip_unreadable: bool) -> Layout:
    """List the files of a table with their class, and all faults.

    Args:
        table: CSV or Parquet file.
        columns: Names of the columns; ``None`` recognizes them.
        skip_unreadable: Leave out incomplete lines and missing files, with a count.

    Raises:
        ConfigError: It is no table.
    """
    grid = read_grid(table)
    places, faults = find_columns(table, grid.names, columns)
    if faults:
        return Layout([], faults, table.parent)
    lines = [
        (number, [row[place].strip() if 0 <= place < len(row) else "" for place in places])
        for number, row in grid.rows
    ]
    is_test, faults = is_test_of(str(table), {cells[2] for _, cells in lines}, places[2] >= 0)
    rows, more = check_lines(
        table,
        table.parent,
        (
            Line(number, name, label, is_test.get(part), group, is_validation(part))
            for number, (name, label, part, group) in lines
        ),
        skip=skip_unreadable,
    )
    return Layout(rows, [*faults, *more], table.parent, parted=places[2] >= 0)


def read_grid(table: Path) -> Grid:
    """Read a table, by the ending of its name.

    Raises:
        ConfigError: Its kind is not read, or it is damaged.
    """
    if not is_table(table):
        raise ConfigError(
            f"{table} is a file; unpack it and give the folder as folder:PATH, or give a table "
            f"({', '.join((*CSV, *PARQUET))}) as table:PATH"
        )
    return _read_parquet(table) if table.suffix.casefold() in PARQUET else read_csv(table)


def read_csv(table: Path) -> Grid:
    """Read a CSV file as spreadsheets save it; empty rows are passed over.

    Raises:
        ConfigError: It can't be read.
    """
    text = read_text(table)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise ConfigError(f"{table} is no table ({error}); save it as CSV (UTF-8)") from None
    filled = [(n, row) for n, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)]
    return Grid([readable(name.strip()) for name in rows[0]] if rows else [], filled)


def _read_parquet(table: Path) -> Grid:
    """Read a Parquet file as texts; its first row is line 1.

    Raises:
        ConfigError: It can't be read, or there is no library that reads it.
    """
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError:
        raise ConfigError(f"{table}: Parquet is read by pyarrow; install it, or use CSV") from None
    try:
        schema = parquet.read_schema(table)
        flat = [field.name for field in schema if not types.is_nested(field.type)]
        found = parquet.read_table(table, columns=flat)
        columns = [column.to_pylist() for column in found.columns]
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{table} is no Parquet file ({reason}); write it anew") from None
    held = [name for name in schema.names if name not in flat and _unified(name) in USUAL["path"]]
    if held:
        raise ConfigError(
            f"{table}: the column '{held[0]}' holds images, not the paths of files; save them as "
            "files, or by save_to_disk of Hugging Face datasets and give folder:PATH"
        )
    rows = ([_text(cell) for cell in row] for row in zip(*columns, strict=True))
    return Grid([readable(name) for name in found.column_names], enumerate(rows, 1))


def _text(cell: object) -> str:
    """Return a cell as text; whole numbers beside empty cells are stored as 3.0."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def find_columns(
    table: Path, names: Sequence[str], columns: Columns
) -> tuple[list[int], list[Fault]]:
    """Return the places of the columns path, label, split and group (-1 without), and faults."""
    places, faults = [], []
    for role in USUAL:
        place, text = find_column(role, names, getattr(columns, role))
        places.append(place)
        if text:
            faults.append(Fault("columns", f"{table} {text}"))
    return places, faults


def _unified(name: str) -> str:
    return name.casefold().replace(" ", "_").replace("-", "_")


def find_column(role: str, names: Sequence[str], wanted: str | None) -> tuple[int, str]:
    """Return the place of a role's column, or -1, and what is wrong (empty: nothing)."""
    there = some([f"'{name}'" for name in names], most=12) or "none"
    if wanted:
        if wanted in names:
            return names.index(wanted), ""
        text = f"has no column '{wanted}' (data.columns.{role}); its columns: {there}"
        return -1, text + did_you_mean(wanted, names)
    unified = [_unified(name) for name in names]
    found = [place for place, name in enumerate(unified) if name in USUAL[role]]
    exact = [place for place, name in enumerate(unified) if name == role]
    if wanted == "" or (not found and role not in REQUIRED):
        return -1, ""
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0], ""
    if found:
        both = some([f"'{names[place]}'" for place in found])
        return -1, f"has several columns for the {role}: {both}; set data.columns.{role}"
    return -1, (
        f"has no column for the {role} of an image; its columns: {there}; "
        f"name one {role}, or set data.columns.{role}"
    )
