"""Folders of images as sources: decoded once, split, without copies of test images in training.

Which files belong to which class and part is in `trainables.data.readers`.
``superclasses.json`` beside the classes (class name to superclass name) gives superclasses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.data.cuts.groups import number_groups
from trainables.data.cuts.own_parts import with_parts
from trainables.data.cuts.test_part import is_parted, number_classes, split
from trainables.data.data_settings import USUAL_FITTING, Fitting
from trainables.data.decode import DEFAULT_SIZE, Head, read_heads
from trainables.data.faults import (
    Fault,
    class_faults,
    left_out,
    log_faults,
    refuse_fatal,
    unreadable_files,
)
from trainables.data.image_files import source_digest
from trainables.data.readers.rows import Layout, Row
from trainables.data.readers.scan import scan_source
from trainables.data.readers.superclasses import read_superclasses
from trainables.data.source_cache import (
    Booleans,
    Source,
    files_content,
    files_key,
)
from trainables.data.source_names import Columns
from trainables.data.stored_sources import Opened, cached, open_images
from trainables.errors import ConfigError, readable
from trainables.settings import canonical_json

SUPERCLASSES = "superclasses.json"
RECOGNIZED = Columns()  # columns of a table by their usual names


class Loaded(NamedTuple):
    """A folder as a source, and lines about it: what is wrong, left out, or not as it seems."""

    source: Source
    faults: list[Fault]


def load_folder(
    folder: Path,
    image_size: int | None,
    *,
    skip_unreadable: bool,
    cache: Path,
    published: bool = False,
    fitting: Fitting = USUAL_FITTING,
    columns: Columns = RECOGNIZED,
    as_written: bool = False,
) -> Source:
    """Load a folder of classes; see `read_folder`. What is left out is logged at every load."""
    loaded = read_folder(
        folder,
        image_size,
        skip_unreadable=skip_unreadable,
        cache=cache,
        published=published,
        fitting=fitting,
        columns=columns,
        as_written=as_written,
    )
    log_faults(loaded.faults)
    return loaded.source


def read_folder(
    folder: Path,
    image_size: int | None,
    *,
    skip_unreadable: bool,
    cache: Path,
    published: bool = False,
    fitting: Fitting = USUAL_FITTING,
    columns: Columns = RECOGNIZED,
    as_written: bool = False,
) -> Loaded:
    """Read a folder of classes, decoded or from the cache.

    Args:
        folder: A folder or table, see `trainables.data.readers`.
        image_size: Height and width wanted. With ``None`` images that all are squares of one size
            (of 8 or more) keep it, and others become 32x32.
        skip_unreadable: Leave out what can't be read, counted and named.
        cache: Folder of decoded arrays.
        published: The images are those of a published data set: training images with the pixels of
            a test image count too.
        fitting: How an image becomes a square.
        columns: Names of a table's columns.
        as_written: See `trainables.data.cuts.own_parts.with_parts`.

    Raises:
        ConfigError: There is no such folder.
        DataError: All faults: an empty folder, unreadable files, a class in one part only.
    """
    scanned = scan_source(folder, columns, skip_unreadable=skip_unreadable, cache=cache)
    layout = with_parts(scanned, as_written=as_written)
    files = [row.path for row in layout.rows]

    def build() -> Source:
        opened = open_images(files, image_size, fitting, check=skip_unreadable, cache=cache)
        return _decoded(layout, opened, folder, skip_unreadable, published)

    if not files or any(fault.fatal for fault in layout.faults):
        build()  # raises
    settings = ["folder", image_size, *fitting, skip_unreadable, published, _classes(layout)]
    key = files_key(layout.base, _all_files(layout), settings, cache)
    source = cached(cache, key, build, layout.base)
    notes = _class_faults(source, folder, layout)
    return Loaded(source, [*layout.faults, *left_out(source, folder), *notes])


def folder_content(folder: Path, *, cache: Path, columns: Columns = RECOGNIZED) -> str:
    """Return a digest of a folder of classes: of its files' contents, classes and parts.

    It does not depend on where the folder is. Once `read_folder` has read it, no file is read.

    Raises:
        ConfigError: There is no such folder.
    """
    layout = scan_source(folder, columns, skip_unreadable=True, cache=cache)
    content = files_content(layout.base, _all_files(layout), cache)
    return hashlib.sha256(canonical_json([content, _classes(layout)]).encode()).hexdigest()


def _all_files(layout: Layout) -> list[str]:
    """Return the files that a source is made of: its images, and the table of superclasses."""
    table = layout.base / SUPERCLASSES
    return [*(row.path for row in layout.rows), *([str(table)] if table.is_file() else [])]


def _classes(layout: Layout) -> list[list[str | bool | None]]:
    """Return class, part and group of each image, and names of classes that are not their label."""
    names: list[list[str | bool | None]] = [list(pair) for pair in layout.names]
    groups: list[list[str | bool | None]] = [[row.group] for row in layout.rows]
    grouped = any(row.group for row in layout.rows)
    written: list[list[str | bool | None]] = [[row.validation] for row in layout.rows]
    return [
        *([row.label, row.is_test] for row in layout.rows),
        *names,
        *(groups if grouped else ()),
        *(["as written", *written] if layout.as_written else ()),
    ]


def outline_folder(
    folder: Path,
    *,
    skip_unreadable: bool,
    cache: Path,
    columns: Columns = RECOGNIZED,
    as_written: bool = False,
) -> Loaded:
    """Read the heads of a folder's files: its classes and parts, without pixels, and all faults.

    The source has no images. Damage behind a file's head, and copies, show in decoding alone.

    Raises:
        ConfigError: There is no such folder.
    """
    scanned = scan_source(folder, columns, skip_unreadable=skip_unreadable, cache=cache)
    layout = with_parts(scanned, as_written=as_written)
    heads = read_heads([row.path for row in layout.rows])
    return _outlined(layout, heads, folder, skip_unreadable)


def readable_files(
    files: Sequence[str], heads: Sequence[Head], folder: Path
) -> tuple[list[int], tuple[str, ...]]:
    """Return the positions of readable files, and the names of the others."""
    good = [number for number, head in enumerate(heads) if not head.reason]
    bad = [files[number] for number, head in enumerate(heads) if head.reason]
    return good, tuple(readable(os.path.relpath(path, folder)) for path in bad)


def _outlined(layout: Layout, heads: list[Head], folder: Path, skip: bool) -> Loaded:
    """Return a source without images, and all faults of a folder."""
    files = [row.path for row in layout.rows]
    bad = unreadable_files(files, heads, skip=skip)
    # refused because of them: a class is not judged by what is left of it
    everything: tuple[list[int], tuple[str, ...]] = list(range(len(files))), ()
    good, skipped = everything if bad else readable_files(files, heads, layout.base)
    rows = [layout.rows[number] for number in good]
    numbered, labels = number_classes(rows)
    names = tuple(dict(layout.names).get(name, name) for name in numbered)
    is_test, _ = split(rows, labels)
    images = np.empty((0, DEFAULT_SIZE, DEFAULT_SIZE, 3), dtype=np.uint8)
    groups = number_groups([row.group for row in rows])
    source = Source(images, labels, is_test, names, None, "", skipped, (), _extremes(heads), groups)
    source = source._replace(validation=_validation(rows, is_test))
    faults = [*layout.faults, *bad, *left_out(source, folder)]
    if rows or not any(fault.fatal for fault in faults):
        faults += _class_faults(source, folder, layout)
    try:
        source = source._replace(superclasses=_superclasses(layout.base, numbered))
    except ConfigError as error:
        faults.append(Fault("superclasses", str(error)))
    return Loaded(source, faults)


def _decoded(layout: Layout, opened: Opened, folder: Path, skip: bool, published: bool) -> Source:
    """Return the source of decoded files.

    Raises:
        DataError: With all faults.
    """
    outline = _outlined(layout, opened.heads, folder, skip)
    refuse_fatal(outline.faults)
    plain = outline.source
    good, _ = readable_files([row.path for row in layout.rows], opened.heads, layout.base)
    rows = [layout.rows[number] for number in good]
    labels, is_test = plain.labels, plain.is_test
    if plain.skipped:
        opened = opened.take(np.array(good, dtype=np.int64))
    groups = plain.groups
    copies: tuple[str, ...] = ()
    if not (published or layout.published):
        is_test, kept = split(rows, labels, opened.images)
        if not kept.all():
            dropped = [rows[number].path for number in np.flatnonzero(~kept)]
            copies = tuple(readable(os.path.relpath(path, layout.base)) for path in dropped)
            opened = opened.take(np.flatnonzero(kept))
            labels, is_test = labels[kept], is_test[kept]
            rows = [row for row, stays in zip(rows, kept, strict=True) if stays]
            groups = None if groups is None else groups[kept]
    source = plain._replace(
        images=opened.images,
        labels=labels,
        is_test=is_test,
        digest=source_digest(opened.images, labels, is_test),
        copies=copies,
        groups=groups,
        validation=_validation(rows, is_test),
        files=opened.files,
    )
    if copies:
        faults = _class_faults(source, folder, layout)
        refuse_fatal([*outline.faults, *left_out(source, folder), *faults])
    return source


def _class_faults(source: Source, folder: Path, layout: Layout) -> list[Fault]:
    parted = is_parted(layout.rows)
    return class_faults(source, folder, parted=parted, all_judged=not layout.as_written)


def _validation(rows: Sequence[Row], is_test: Booleans) -> Booleans | None:
    """Return which images are the source's own validation; ``None``: it has none."""
    found = np.array([row.validation for row in rows], dtype=np.bool_) & ~is_test
    return found if found.any() else None


def _extremes(heads: Sequence[Head]) -> tuple[tuple[int, int], ...]:
    """Return width and height of the smallest and of the largest file, by pixels."""
    known = sorted({head.size for head in heads if head.size}, key=lambda s: (s[0] * s[1], s))
    return (known[0], known[-1]) if known else ()


def _superclasses(folder: Path, names: tuple[str, ...]) -> tuple[int, ...] | None:
    table = folder / SUPERCLASSES
    return read_superclasses(table, names) if table.is_file() else None
