"""The files of a folder that may be photos: with their label and their own part, or left out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from trainables.data.readers.file_tree import looks_like_image
from trainables.data.readers.layouts import LOOSE
from trainables.data.readers.parts import VALIDATION_JOINS
from trainables.data.readers.rows import Layout, Row
from trainables.data.readers.scan import scan_source
from trainables.data.shots.identity import Content
from trainables.data.shots.ledger import Part
from trainables.data.source_names import Columns
from trainables.errors import DataError, readable

RECOGNIZED = Columns()  # columns of a table by their usual names
QUIET_KINDS = (LOOSE, VALIDATION_JOINS, "images in unlabelled/", "images in unlabeled/")


class Candidate(NamedTuple):
    """A file with its class; ``own`` is the part that the folder puts it into, if it has parts."""

    path: str
    class_name: str
    own: Part | Literal[""]
    group: str
    content: Content


class Found(NamedTuple):
    """What lies in a folder.

    ``shown`` is how paths are shown: below the folder. ``notes`` are lines about the layout.
    """

    base: Path
    rows: list[Row]
    own_parts: frozenset[str]
    left_out: dict[str, str]
    loose: list[Path]
    notes: list[str]

    def shown(self, path: str) -> str:
        """Return a path as it is shown: relative to the folder, in one line."""
        return readable(os.path.relpath(path, self.base))


def find_rows(place: Path, cache: Path, columns: Columns = RECOGNIZED) -> Found:
    """List a folder or table; what can't be a photo by its name or place is left out.

    Raises:
        ConfigError: There is no such folder, or nothing in it can be used.
    """
    layout = scan_source(place, columns, skip_unreadable=True, cache=cache)
    if any(fault.fatal for fault in layout.faults):
        raise DataError(layout.faults)
    names = dict(layout.names)
    rows = [
        row._replace(label=names.get(row.label, row.label).strip(), path=os.path.abspath(row.path))
        for row in layout.rows
    ]
    left_out = {os.path.abspath(path): f"unreadable ({what})" for path, what in layout.broken}
    for row in rows:
        if not _writable(row.path):
            left_out[row.path] = "its name can't be written into a table"
        elif not row.label:
            left_out[row.path] = "the name of its class folder is blank"
    notes = [fault.text for fault in layout.faults if fault.kind not in QUIET_KINDS]
    return Found(
        place if place.is_dir() else place.parent,
        [row for row in rows if row.path not in left_out],
        _own_parts(layout),
        left_out,
        [Path(os.path.abspath(path)) for path in layout.loose],
        notes,
    )


def sort_unreadable(
    found: Found, contents: Mapping[str, Content]
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the files that are images, and for the others why they are not."""
    candidates, left_out = [], {}
    for row in found.rows:
        content = contents[row.path]
        if not content.reason:
            candidates.append(
                Candidate(row.path, row.label, own_part(row, found.own_parts), row.group, content)
            )
        elif looks_like_image(row.path):
            left_out[row.path] = f"unreadable ({content.reason})"
        else:
            left_out[row.path] = "no image"
    return candidates, left_out


def own_part(row: Row, own_parts: frozenset[str]) -> Part | Literal[""]:
    """Return the part that a folder or table puts an image into; empty where it has no parts."""
    if not own_parts:
        return ""
    return "val" if row.validation else "test" if row.is_test else "train"


def _own_parts(layout: Layout) -> frozenset[str]:
    """Return which parts a source has itself; a folder that is called train alone is one too."""
    rows: Sequence[Row] = layout.rows
    parts = {"val" for row in rows if row.validation} | {"test" for row in rows if row.is_test}
    return frozenset(parts | {"train"} if parts else ())


def _writable(path: str) -> bool:
    """Say whether a table can hold a path: it is text, and no end of it is cut off."""
    return path == path.strip() and readable(path) == path
