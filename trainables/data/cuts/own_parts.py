"""The parts that a source has of its own: joined for a laboratory, as written in service."""

from __future__ import annotations

from trainables.data.readers.parts import VALIDATION_JOINS
from trainables.data.readers.rows import Layout


def with_parts(layout: Layout, *, as_written: bool) -> Layout:
    """Return a layout whose parts are those of a laboratory, or as they are written.

    In a laboratory validation joins train, and a source without a test part has one split off. As
    they are written, validation stays what it is; where the part of each image is written beside
    it, a source without test images has none; and a class may have none.

    Example:
        >>> from pathlib import Path
        >>> from trainables.data.readers.rows import Row
        >>> rows = [Row("1.png", "cat", None), Row("2.png", "cat", None, validation=True)]
        >>> found = with_parts(Layout(rows, [], Path(), parted=True), as_written=True)
        >>> [(row.is_test, row.validation) for row in found.rows]
        [(False, False), (False, True)]
    """
    if not as_written:
        return layout._replace(rows=[row._replace(validation=False) for row in layout.rows])
    rows = layout.rows
    if layout.parted:
        rows = [row._replace(is_test=bool(row.is_test)) for row in rows]
    faults = [fault for fault in layout.faults if fault.kind != VALIDATION_JOINS]
    return layout._replace(rows=rows, faults=faults, as_written=True)
