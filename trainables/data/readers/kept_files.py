"""`kept_files`: the file that each image of a source of one's own was decoded from."""

from __future__ import annotations

import os
from pathlib import Path

from trainables.data.data_settings import Data
from trainables.data.readers.scan import scan_source
from trainables.data.service_settings import SERVICE
from trainables.data.source_cache import Source
from trainables.data.sources import load_source, own_path
from trainables.errors import ConfigError, readable


def source_of(data: Data) -> Source:
    """Return the decoded images of data settings, with the parts that their world asks for."""
    return load_source(
        data.source,
        Path(data.root),
        data.image_size,
        skip_unreadable=data.skip_unreadable,
        fitting=data.fitting,
        columns=data.columns,
        as_written=data.world == SERVICE,
    )


def kept_files(data: Data, source: Source) -> list[str]:
    """Return the file of each image of a source, in the source's order.

    A source has the files of its folder or table but for those that can't be read, and for
    training images that are copies of test images.

    Args:
        data: Data settings, whose source is ``folder:PATH`` or ``table:PATH``.
        source: What `source_of` gave for it.

    Raises:
        ConfigError: The folder or table changed since the source was loaded.
    """
    place = own_path(data.source)
    layout = scan_source(
        place,
        data.columns,
        skip_unreadable=data.skip_unreadable,
        cache=Path(data.root) / ".cache",
    )
    gone = {*source.skipped, *source.copies}
    found = [
        row.path
        for row in layout.rows
        if readable(os.path.relpath(row.path, layout.base)) not in gone
    ]
    if len(found) != len(source.labels):
        raise ConfigError(
            f"data.source: {place} changed meanwhile ({len(source.labels)} images were there, "
            f"{len(found)} are there now); start again"
        )
    return found
