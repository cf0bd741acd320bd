"""Folders of images: which file belongs to which class, and decoding to one array.

Layouts:

- Tiny-ImageNet: ``train/`` with a folder per class, and for the test ``val/images`` with
  ``val_annotations.txt``.
- ``train/`` and ``test/`` (or ``val/``, where there is no ``test/`` with folders), a folder per
  class in each.
- ``images/`` with ``train.csv``, ``val.csv``, ``test.csv`` of ``filename,label`` (mini-ImageNet):
  its parts hold different classes, so they are joined and split 80/20 per class.
- A folder per class, split 80/20 per class, the same way every time.

A class folder with a sub-folder ``images`` is read from there; else its files count at any depth.
Names that begin with a dot are ignored. ``superclasses.json`` beside the classes (class name to
superclass name) gives superclasses.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.decode import decode_all
from trainables.errors import ConfigError
from trainables.source_cache import (
    Source,
    cached,
    content_digest,
    files_key,
    stratified_test,
)

TEST_FRACTION = 0.2

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """One file with its class; ``is_test`` is ``None`` where the source has no split.

    Paths are texts: a hundred thousand ``Path`` objects would cost a second at every load.
    """

    path: str
    label: str
    is_test: bool | None


def load_folder(
    folder: Path, image_size: int | None, *, skip_unreadable: bool, cache: Path
) -> Source:
    """Load a folder of classes.

    Args:
        folder: See the module's text for the layouts.
        image_size: Height and width wanted. With ``None`` images that all are squares of one size
            (of 8 or more) keep it, and others become 32x32.
        skip_unreadable: Leave out what can't be decoded, logged and counted.
        cache: Folder of decoded arrays.

    Raises:
        ConfigError: Missing or empty folder, unreadable file, a class with too few images or on
            one side only; the message names it and the remedy.
    """
    entries = _scan(folder)
    names = _check_classes(entries, folder)
    table = folder / "superclasses.json"
    extra = [str(table)] if table.is_file() else []
    settings = ["folder", image_size, skip_unreadable]
    key = files_key(folder, [*(entry.path for entry in entries), *extra], settings)

    def build() -> Source:
        decoded = decode_all(
            [entry.path for entry in entries], image_size, folder, skip_unreadable=skip_unreadable
        )
        left = [entries[position] for position in decoded.positions]
        if decoded.skipped:
            _check_classes(left, folder)
        labels = np.array([names.index(entry.label) for entry in left], dtype=np.int64)
        if left[0].is_test is None:
            is_test = stratified_test(labels, TEST_FRACTION)
        else:
            is_test = np.array([entry.is_test for entry in left], dtype=np.bool_)
        digest = content_digest(decoded.images, labels, is_test)
        supers = _superclasses(table, names) if extra else None
        return Source(decoded.images, labels, is_test, names, supers, digest, decoded.skipped)

    return _log_skipped(cached(cache, key, build), folder)


def load_loose_images(
    folder: Path, image_size: int, *, skip_unreadable: bool, cache: Path
) -> Source:
    """Load all images below a folder, whatever their class (labels are -1).

    Raises:
        ConfigError: Missing or empty folder, or an unreadable file.
    """
    _require_folder(folder)
    files = _files_below(folder)
    if not files:
        raise ConfigError(f"{folder} holds no images; put some there or choose another folder")

    def build() -> Source:
        decoded = decode_all(files, image_size, folder, skip_unreadable=skip_unreadable)
        labels = np.full(len(decoded.images), -1, dtype=np.int64)
        is_test = np.zeros(len(labels), dtype=np.bool_)
        digest = content_digest(decoded.images, labels, is_test)
        return Source(decoded.images, labels, is_test, (), None, digest, decoded.skipped)

    key = files_key(folder, files, ["loose", image_size, skip_unreadable])
    return _log_skipped(cached(cache, key, build), folder)


def _log_skipped(source: Source, folder: Path) -> Source:
    """Log how many files were left out, at every load."""
    if source.skipped:
        first = ", ".join(source.skipped[:5])
        logger.warning("%s: skipped %d unreadable files: %s", folder, len(source.skipped), first)
    return source


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(
            f"folder not found: {folder}; give an existing folder as folder:PATH "
            f"(relative to {Path.cwd()})"
        )


def _scan(folder: Path) -> list[_Entry]:
    """List the files of a folder with their class, sorted by part, class and path."""
    _require_folder(folder)
    tables = [folder / f"{part}.csv" for part in ("train", "val", "test")]
    if (folder / "images").is_dir() and any(table.is_file() for table in tables):
        return _scan_tables(folder, [table for table in tables if table.is_file()])
    train = folder / "train"
    if not train.is_dir():
        return _scan_classes(folder, None)
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        return _scan_classes(train, False) + _scan_annotations(annotations)
    if _class_folders(folder / "test"):
        if (folder / "val").is_dir():
            logger.warning(
                "%s/val is not used: test/ is, and validation is cut from train/", folder
            )
        return _scan_classes(train, False) + _scan_classes(folder / "test", True)
    if _class_folders(folder / "val"):
        return _scan_classes(train, False) + _scan_classes(folder / "val", True)
    return _scan_classes(train, None)


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_below(folder: Path) -> list[str]:
    """Return all files at any depth, sorted, without hidden ones."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):  # several times faster than Path.rglob
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _scan_classes(folder: Path, is_test: bool | None) -> list[_Entry]:
    """List a folder of class folders.

    Raises:
        ConfigError: It has no class folders, or one of them is empty.
    """
    entries: list[_Entry] = []
    classes = _class_folders(folder)
    if not classes:
        raise ConfigError(
            f"{folder} has no class folders; expected {folder}/CLASS_NAME/image.png, "
            "or train/ and test/ with a folder per class"
        )
    for class_folder in classes:
        inner = class_folder / "images"
        files = _files_below(inner if inner.is_dir() else class_folder)
        if not files:
            raise ConfigError(f"{class_folder} is empty; put images there or delete the folder")
        entries += [_Entry(path, class_folder.name, is_test) for path in files]
    return entries


def _scan_annotations(table: Path) -> list[_Entry]:
    """List Tiny-ImageNet's validation images: file name and class per line, tab-separated."""
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line]
    found = [_Entry(str(table.parent / "images" / row[0]), row[1], True) for row in rows]
    return sorted(_existing(found, table), key=lambda entry: (entry.label, entry.path))


def _scan_tables(folder: Path, tables: list[Path]) -> list[_Entry]:
    """List mini-ImageNet's images by its tables of file name and class."""
    entries: list[_Entry] = []
    for table in tables:
        with table.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        if rows and not {"filename", "label"} <= rows[0].keys():
            raise ConfigError(f"{table} must have the columns filename,label")
        found = [
            _Entry(str(folder / "images" / row["filename"]), row["label"], None) for row in rows
        ]
        entries += _existing(found, table)
    return sorted(entries, key=lambda entry: (entry.label, entry.path))


def _existing(entries: list[_Entry], table: Path) -> list[_Entry]:
    for entry in entries:
        if not os.path.isfile(entry.path):
            raise ConfigError(f"{table} lists {entry.path}, which does not exist; restore the file")
    return entries


def _check_classes(entries: list[_Entry], folder: Path) -> tuple[str, ...]:
    """Return the class names, ascending.

    Raises:
        ConfigError: Fewer than two classes, a class of one image, or one on one side only.
    """
    total = Counter(entry.label for entry in entries)
    if len(total) < 2:
        found = ", ".join(total) or "none"
        raise ConfigError(f"{folder} has {len(total)} class ({found}); at least 2 are needed")
    if entries[0].is_test is None:
        for name, count in sorted(total.items()):
            if count < 2:
                raise ConfigError(
                    f"class '{name}' in {folder} has 1 image; at least 2 are needed, one to train "
                    "and one to test: add images or delete the class"
                )
        return tuple(sorted(total))
    train = Counter(entry.label for entry in entries if not entry.is_test)
    test = Counter(entry.label for entry in entries if entry.is_test)
    for name in sorted(total):
        side, other = ("test", "train") if name not in train else ("train", "test")
        if name not in train or name not in test:
            raise ConfigError(
                f"class '{name}' in {folder} is in the {side} part only; add {other} images, or "
                f"delete it from the {side} part"
            )
    return tuple(sorted(total))


def _superclasses(table: Path, names: tuple[str, ...]) -> tuple[int, ...]:
    """Read the superclass of each class and number them in alphabetical order."""
    of_class = json.loads(table.read_text(encoding="utf-8"))
    missing = [name for name in names if name not in of_class]
    if missing:
        raise ConfigError(f"{table} has no superclass for class '{missing[0]}'; add it")
    numbers = {name: n for n, name in enumerate(sorted({of_class[c] for c in names}))}
    return tuple(numbers[of_class[name]] for name in names)
