"""`PhotoSet`, the images of a folder with class, group and part, and the table that it becomes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from trainables.data.shots.ledger import Part

COLUMNS = ("path", "label", "group", "part")


class Photo(NamedTuple):
    """An image that counts.

    ``group`` names the images that are in its part with it: copies and bursts; an image alone is a
    group too. ``size`` is width and height of the upright image.
    """

    file: Path
    class_name: str
    part: Part
    group: str
    bytes_digest: str
    pixel_digest: str
    size: tuple[int, int]


class LeftOut(NamedTuple):
    """A file that does not count, and why: ``copy of tabby/1.jpg``, ``no image``."""

    file: Path
    reason: str


class PhotoSet(NamedTuple):
    """What a folder of photos holds.

    Attributes:
        folder: The folder, absolute.
        photos: The images that count, by class and path.
        left_out: The files that do not, each with its reason.
        classes: All classes that have an image, in alphabetical order.
        loose: Images of no class, beside class folders or in ``unlabelled/``.
        own_parts: Which of train, val and test the folder has itself.
        remarks: One sentence each about what may mislead a model, or its judge.
        catch_all: Classes that hold whatever is left, such as ``other``.
        small: Classes without test images; their figures are out-of-fold.
        corrected: File to label of what a table of labels names.
    """

    folder: Path
    photos: list[Photo]
    left_out: list[LeftOut]
    classes: list[str]
    loose: list[Path]
    own_parts: frozenset[str]
    remarks: list[str]
    catch_all: frozenset[str]
    small: frozenset[str]
    corrected: Mapping[Path, str] = MappingProxyType({})


def write_table(photos: PhotoSet, path: Path) -> None:
    """Write the images as a table with the columns path, label, group and part.

    ``data.source=table:PATH`` reads it. Paths are absolute. The file is whole or absent, and it is
    not touched where it says the same already.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for photo in photos.photos:
        writer.writerow((photo.file, photo.class_name, photo.group, photo.part))
    content = text.getvalue().encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:  # the disk may be full
        draft.unlink(missing_ok=True)
