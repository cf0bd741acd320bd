"""`Row`, a file with its class, and the check of the lines of a table, which name such files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trainables.data.faults import Fault, some
from trainables.errors import ConfigError, readable

INCOMPLETE, MISSING = "incomplete lines", "missing files"
AT_ODDS, REPEATED = "files that two lines tell apart", "repeated lines"


class Row(NamedTuple):
    """A file and its class, and whether it is a test image (``None``: the source has no split).

    Images of one ``group`` stay together; those of an empty one are alone. ``validation``: the
    image lies in a validation part of the source's own, which joins train in the protocol.
    """

    path: str
    label: str
    is_test: bool | None
    group: str = ""
    validation: bool = False


class Layout(NamedTuple):
    """A source's files with class and part, and its faults.

    ``base`` is the folder that the files lie in, whose place does not count.
    ``published``: the layout of a data set whose images count as they are, copies too. ``names``
    are pairs of label and name, for classes whose label is not their name, such as ``n01443537``.
    ``loose`` are images of no class, beside class folders or in ``unlabelled/``; ``broken`` are
    paths that can't be read, with the reason.
    ``parted``: the part of each image is written beside it, so a part without images is empty.
    ``as_written``: parts stay what they are called, see `trainables.data.cuts.own_parts`.
    """

    rows: list[Row]
    faults: list[Fault]
    base: Path
    published: bool = False
    names: tuple[tuple[str, str], ...] = ()
    loose: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    parted: bool = False
    as_written: bool = False


class Line(NamedTuple):
    """A line of a table as it stands there: where, the file's name, its class, part and group."""

    number: int
    name: str
    label: str
    is_test: bool | None = None
    group: str = ""
    validation: bool = False


def check_lines(
    table: Path, folder: Path, lines: Iterable[Line], *, skip: bool = False
) -> tuple[list[Row], list[Fault]]:
    """Return the rows of the lines that name an existing file and a class, and all faults.

    Args:
        table: Where the lines are from.
        folder: Folder that the names of files are relative to.
        lines: The lines.
        skip: Leave out incomplete lines and missing files, with a count, in place of a fatal fault.
    """
    found: dict[str, tuple[int, Row]] = {}
    faults: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        path = _path(folder, line.name)
        label = unicodedata.normalize("NFC", readable(line.label))
        row = Row(path, label, line.is_test, line.group, line.validation)
        kind, text = _fault(line, path, found.get(path))
        if kind:
            faults.setdefault(kind, []).append((line.number, text))
        else:
            found[path] = line.number, row
    rows = sorted((row for _, row in found.values()), key=lambda row: (row.label, row.path))
    quiet = {REPEATED, *((INCOMPLETE, MISSING) if skip else ())}
    texts = []
    for kind, bad in faults.items():
        if kind in quiet:
            places = some([f"line {number}" for number, _ in bad])
            texts.append(Fault(kind, f"{table}: {kind} left out ({len(bad)}): {places}", False))
        else:
            texts += [Fault(kind, f"{table} line {number} {text}") for number, text in bad]
    return rows, texts


def _path(folder: Path, name: str) -> str:
    """Return the path of a file that a table names; tables of Windows have backslashes."""
    path = os.path.normpath(os.path.join(folder, name))
    if "\\" in name and not os.path.exists(path):
        path = os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
    return path


def _fault(line: Line, path: str, before: tuple[int, Row] | None) -> tuple[str, str]:
    """Return kind and text of what is wrong with a line; empty if nothing is."""
    if not line.name or not line.label:
        lacking = "class" if line.name else "file name"
        return INCOMPLETE, f"has no {lacking}; complete or delete the line"
    if before is not None:
        return _second(line, path, *before)
    if not os.path.isfile(path):
        text = f"lists {readable(path)}, which does not exist; restore the file or delete the line"
        return MISSING, text
    return "", ""


def _second(line: Line, path: str, number: int, row: Row) -> tuple[str, str]:
    """Return kind and text for a line whose file another line has too."""
    for what, one, other in (
        ("class", row.label, unicodedata.normalize("NFC", readable(line.label))),
        ("part", _part(row), _part(line)),
        ("group", row.group, line.group),
    ):
        if one != other:
            text = (
                f"gives {readable(path)} the {what} '{other}', line {number} '{one}'; "
                "delete one of them"
            )
            return AT_ODDS, text
    return REPEATED, ""


def _part(row: Row | Line) -> str:
    return "val" if row.validation else "test" if row.is_test else "train"


def read_text(path: Path) -> str:
    """Return a text file as spreadsheets, editors and old Windows programs save it.

    A byte order mark tells UTF-16 and UTF-8; without one it is UTF-8, else Windows-1252.

    Raises:
        ConfigError: The file can't be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror})") from None
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252"):
        try:
            return raw.decode(encoding).replace("\0", "")
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1").replace("\0", "")
