"""`scan_source`: lists a source of one's own, whatever form it has."""

from __future__ import annotations

from pathlib import Path

from trainables.data.readers.layouts import scan
from trainables.data.readers.rows import Layout
from trainables.data.readers.saved_datasets import is_saved_dataset, scan_saved_dataset
from trainables.data.readers.tables import scan_table
from trainables.data.source_names import Columns
from trainables.errors import ConfigError


def scan_source(place: Path, columns: Columns, *, skip_unreadable: bool, cache: Path) -> Layout:
    """List the files of a folder or table with class and part, and all faults.

    Args:
        place: A folder in a layout of `trainables.data.readers.layouts`, a table, or a dataset that
            Hugging Face `datasets` saved.
        columns: Names of the columns of a table or saved dataset.
        skip_unreadable: Leave out what can't be read (with a line) in place of a fatal fault.

        cache: Folder for images that are no files yet.

    Raises:
        ConfigError: There is no such place, or columns are set for a folder.
    """
    if place.is_file():
        return scan_table(place, columns, skip_unreadable=skip_unreadable)
    if is_saved_dataset(place):
        return scan_saved_dataset(place, columns, skip_unreadable=skip_unreadable, cache=cache)
    chosen = columns.model_dump(exclude_none=True)
    if chosen:
        names = ", ".join(f"data.columns.{role}" for role in chosen)
        raise ConfigError(f"{names}: a folder of images has no columns; give a table as table:PATH")
    return scan(place, skip_unreadable=skip_unreadable)
