"""Which photo each image of a source is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.data.readers.kept_files import source_of
from trainables.data.shots.photo_set import Photo
from trainables.errors import readable

if TYPE_CHECKING:
    from trainables.data.data_settings import Data


def photos_of_source(data: Data, table: Path, photos: Sequence[Photo]) -> list[Photo]:
    """Return the photo of each image of a source, in its order.

    A source has the rows of its table but for files that could not be decoded, and copies that
    show at the size of the model alone.

    Args:
        data: Data settings, whose source is the table.
        table: The table.
        photos: The photos in the table's order.

    Raises:
        ValueError: The table has changed meanwhile.
    """
    source = source_of(data)
    gone = {*source.skipped, *source.copies}
    found = [p for p in photos if readable(os.path.relpath(p.file, table.parent)) not in gone]
    if len(found) != len(source.labels):
        raise ValueError(f"{table}: {len(found)} images expected, {len(source.labels)} are there")
    return found
