"""Which images train and which test in a sweep on one's own images: as the model's ledger says.

The ledger is that of `fit`: parts are decided once per group of images (copies and bursts) and
written down, so images that are added or relabelled later move no others. Two tables follow from
it. That of the model that serves has each image in its part. That of the laboratory differs only in
classes without test images: some of their training images play the test there, as recipes must be
tested on every class, and train the model that serves.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainables.data.cuts.test_part import TEST_FRACTION
from trainables.data.data_settings import Data
from trainables.data.faults import some
from trainables.data.folders import SUPERCLASSES
from trainables.data.readers.scan import scan_source
from trainables.data.service_settings import SERVICE
from trainables.data.shots.look import look_at_photos
from trainables.data.shots.parts import place_of
from trainables.data.shots.photo_set import Photo, PhotoSet, write_table
from trainables.data.source_names import TABLE, Columns
from trainables.data.sources import own_path
from trainables.errors import readable
from trainables.keys import file_digest
from trainables.settings import canonical_json

TABLES = "parts"  # folder beside the ledger, with a folder for each content
DIGITS = 16  # of a digest, in the name of such a folder
SEED = 0  # groups of a laboratory's test are drawn with it, as those of the ledger


class WrittenParts(NamedTuple):
    """Data settings of the laboratory, the source of the model that serves, and lines about both.

    ``served`` is empty where no ledger was written; else ``photos`` are the images of that model.
    """

    laboratory: Data
    served: str
    lines: list[str]
    photos: Sequence[Photo] = ()


def write_parts(data: Data, ledger: Path) -> WrittenParts:
    """Decide who trains and who tests, write it down, and return the data that keep to it.

    The tables lie in a folder beside the ledger that is named after their content: a sweep that
    goes on finds those that it began with, and none changes below a sweep that runs.

    Args:
        data: Data settings of one's own images, ``folder:PATH`` or ``table:PATH``.
        ledger: File of the parts that were decided.

    Raises:
        ConfigError: No image counts, or the ledger is damaged.
    """
    place = own_path(data.source).resolve()
    cache = Path(data.root) / ".cache"
    if scan_source(place, data.columns, skip_unreadable=True, cache=cache).published:
        return WrittenParts(data, "", [])  # its parts and copies are as published
    images = look_at_photos(place, ledger=ledger, columns=data.columns)
    laboratory = for_laboratory(images.photos)
    tables = ledger.parent / TABLES / _digest(images.photos, laboratory, place)
    served = _write(images, place, tables / SERVICE)
    source = served
    if data.world != SERVICE:
        source = _write(images._replace(photos=laboratory), place, tables / "laboratory")
    changed = data.model_copy(update={"source": source, "columns": Columns()})
    return WrittenParts(changed, served, _lines(images, ledger), images.photos)


def for_laboratory(photos: Sequence[Photo]) -> list[Photo]:
    """Return photos of which every class has some to train on and some for the test.

    Of a class without test images the groups of the lowest hash play the test, about 20 % of its
    training images; it keeps one group at least. A class of one group can't be tested and is left
    out.

    Example:
        >>> def photo(group: str, part: str = "train") -> Photo:
        ...     return Photo(Path(), "cat", part, group, group, group, (1, 1))
        >>> [p.part for p in for_laboratory([photo("a"), photo("b"), photo("c")])]
        ['train', 'train', 'test']
        >>> for_laboratory([photo("a"), photo("a")])
        []
    """
    tested = {photo.class_name for photo in photos if photo.part == "test"}
    sizes: dict[str, dict[str, int]] = {}
    for photo in photos:
        if photo.class_name not in tested and photo.part == "train":
            groups = sizes.setdefault(photo.class_name, {})
            groups[photo.group] = groups.get(photo.group, 0) + 1
    chosen: set[str] = set()
    for groups in sizes.values():
        wanted = max(round(sum(groups.values()) * TEST_FRACTION), 1)
        for group in sorted(groups, key=lambda name: place_of(name, SEED))[:-1]:
            if sum(size for name, size in groups.items() if name in chosen) < wanted:
                chosen.add(group)
    moved = [p._replace(part="test") if p.group in chosen else p for p in photos]
    both = [{p.class_name for p in moved if (p.part == "test") == test} for test in (True, False)]
    return [photo for photo in moved if photo.class_name in both[0] & both[1]]


def _digest(served: Sequence[Photo], laboratory: Sequence[Photo], place: Path) -> str:
    """Return the name of the folder of tables: a digest of all that they say."""
    rows = [
        [str(p.file), p.bytes_digest, p.class_name, p.group, p.part] for p in (*served, *laboratory)
    ]
    more = file_digest(str(_superclasses(place)))
    return hashlib.sha256(canonical_json([rows, more]).encode()).hexdigest()[:DIGITS]


def _write(images: PhotoSet, place: Path, folder: Path) -> str:
    """Write a table, with the superclasses beside it, and return it as a source."""
    table = folder / f"{place.name if place.is_dir() else place.stem}.csv"
    write_table(images, table)
    if _superclasses(place).is_file():
        shutil.copyfile(_superclasses(place), folder / SUPERCLASSES)
    return f"{TABLE}{table}"


def _superclasses(place: Path) -> Path:
    """Return where the superclasses of a folder or table are looked for."""
    return (place if place.is_dir() else place.parent) / SUPERCLASSES


def _lines(images: PhotoSet, ledger: Path) -> list[str]:
    """Return what people read: sizes of the parts, what is left out, what the laboratory does."""
    count = {part: sum(p.part == part for p in images.photos) for part in ("train", "val", "test")}
    sizes = ", ".join(f"{number} {part}" for part, number in count.items() if number)
    shots = len({photo.group for photo in images.photos})
    lines = [f"parts: {sizes} images in {shots} shots, written down once in {ledger}"]
    if images.left_out:
        named = [f"{readable(str(gone.file.name))} ({gone.reason})" for gone in images.left_out[:3]]
        more = len(images.left_out) - len(named)
        lines.append(
            f"left out: {len(images.left_out)} files: {', '.join(named)}"
            + (f" and {more} more" if more else "")
        )
    if images.small:
        lines.append(
            f"too small for test images: {some(sorted(images.small))}; all their images train the "
            "model that answers, and only the search tests on some of them"
        )
    return lines
