"""Layouts of image folders: which file belongs to which class and part, and what is left out.

- ``train/`` and ``test/`` with a folder per class in each. ``training/``, ``testing/`` and any
  letter case are the same. ``val/`` (``valid/``, ``validation/``) joins ``train/``: the protocol
  cuts its validation from there. Without ``test/`` the test is split off, 20 % per class.
- A folder per class, split 80/20 per class, the same way every time. A folder called ``train`` is
  a class where other classes lie beside it.
- Tiny-ImageNet: ``train/`` with a folder per class, and for the test ``val/images`` with
  ``val_annotations.txt``.
- ``images/`` with ``train.csv``, ``val.csv``, ``test.csv`` of ``filename,label`` (mini-ImageNet):
  its parts hold different classes, so they are joined and split 80/20 per class.

A folder ``unlabelled`` (``unlabeled``) beside them holds images of no class, whatever it holds.
Files of a class count at any depth, those in linked folders too. Hidden names and those that
systems write (``Thumbs.db``, ``@eaDir``, ``__MACOSX``) never count.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from trainables.data.faults import QUIET, Fault, folder_name, folder_names, some
from trainables.data.readers.file_tree import (
    class_labels,
    holds_images,
    listing,
    looks_like_image,
    walk,
)
from trainables.data.readers.parts import PARTS, VALIDATION_JOINS
from trainables.data.readers.published import (
    IMAGENET,
    SYNSET,
    read_annotations,
    read_imagenet_validation,
    read_table,
    synset_names,
)
from trainables.data.readers.rows import AT_ODDS, Layout, Row
from trainables.errors import ConfigError, readable


def scan(folder: Path, *, skip_unreadable: bool) -> Layout:
    """List the files of a folder with their class, sorted by part, class and path.

    Args:
        folder: See the module's text for the layouts.
        skip_unreadable: Leave out what can't be read (with a line) in place of a fatal fault.

    Raises:
        ConfigError: There is no such folder.
    """
    require_folder(folder)
    inner = folder / IMAGENET
    return _Scan(inner if inner.is_dir() else folder, skip_unreadable).layout()


def require_folder(folder: Path) -> None:
    """Refuse a folder that does not exist.

    Raises:
        ConfigError: With the absolute path.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise ConfigError(f"{folder} is a file; unpack it and give the folder as folder:PATH")
    raise ConfigError(
        f"folder not found: {folder}; give an existing folder as folder:PATH "
        f"(relative to {Path.cwd()})"
    )


UNLABELLED = ("unlabelled", "unlabeled")
LOOSE = "images beside the class folders"


class _Class(NamedTuple):
    """A class folder's name on disk, and its files."""

    name: str
    files: list[str]


class _Listing(NamedTuple):
    """What lies directly in a folder: its sub-folders, and its files."""

    folders: list[str]
    files: list[str]


class _Scan:
    """One pass over a folder, which collects faults on its way."""

    def __init__(self, folder: Path, skip_unreadable: bool) -> None:
        self.place, self.published = folder, False
        self.folder, self.skip = os.fspath(folder), skip_unreadable
        self.roots = (
            folder,
            *(Path(self.folder).parents[:3] if folder.match(str(IMAGENET)) else ()),
        )
        self.above = {self.folder, *map(os.fspath, folder.resolve().parents)}
        self.faults: list[Fault] = []
        self.clutter: list[str] = []
        self.broken: list[tuple[str, str]] = []
        self.empty: list[str] = []
        self.loose: list[str] = []

    def layout(self) -> Layout:
        top = self._without_unlabelled(self._list(self.folder))
        by_name = {os.path.basename(path).casefold(): path for path in top.files}
        tables = [by_name[f"{part}.csv"] for part in PARTS if f"{part}.csv" in by_name]
        images = [path for path in top.folders if os.path.basename(path).casefold() == "images"]
        if images and tables:
            return self._tables(images[0], tables)
        parts = self._parts(top.folders)
        annotations = os.path.join(parts.get("val", ""), "val_annotations.txt")
        if "train" in parts and os.path.isfile(annotations):
            rows, faults = read_annotations(Path(annotations), skip=self.skip)
            self.faults += faults
            train = self._classes(parts["train"], self._list(parts["train"]))
            self.published = True
            return self._finish([*_rows(train, False), *rows])
        self._name_loose(self.folder, top.files)
        if not parts:
            classes = self._classes(self.folder, top)
            return self._finish(_rows(classes, None))
        return self._finish(self._split(parts))

    def _finish(self, rows: list[Row]) -> Layout:
        self._report_broken()
        faults = [fault._replace(text=readable(fault.text)) for fault in self.faults]
        names = synset_names(self.roots, {row.label for row in rows})
        return Layout(
            rows,
            faults,
            self.place,
            self.published,
            tuple(sorted(names.items())),
            tuple(sorted(self.loose)),
            tuple(self.broken),
        )

    def _split(self, parts: dict[str, str]) -> list[Row]:
        """List folders of parts: validation joins train, and the test is there or split off."""
        listed = {part: self._list(path) for part, path in parts.items()}
        classes = {p: self._classes(parts[p], listed[p]) for p in parts if listed[p].folders}
        if not listed["train"].folders:
            self._classes(parts["train"], listed["train"])  # says that there are none
        train = classes.get("train", [])
        published = self._imagenet_test(train, parts, classes)
        for part, path in parts.items():
            if part != "val" or published is None:
                self._name_loose(path, listed[part].files)
        if published is not None:
            return [*_rows(train, False), *published]
        names = {found.name for found in train}
        validation, test = (
            self._sorted(parts, part, classes.get(part, []), names) for part in ("val", "test")
        )
        if validation:
            name, target = folder_name(parts["val"]), folder_name(parts["train"])
            more = "" if test else f"; if {name} is your test, rename it to test/"
            self._say(
                VALIDATION_JOINS,
                f"{self.folder}: {name} joins {target}, from which validation is split off{more}",
            )
        is_test = False if test else None
        labels = class_labels(c.name for part in (train, validation, test) for c in part)
        return [
            *_rows(train, is_test, labels),
            *(row._replace(validation=True) for row in _rows(validation, is_test, labels)),
            *_rows(test, True, labels),
        ]

    def _imagenet_test(
        self, train: list[_Class], parts: dict[str, str], classes: dict[str, list[_Class]]
    ) -> list[Row] | None:
        """List the test of ImageNet or a part of it: its validation images, as papers report."""
        synsets = bool(train) and all(SYNSET.match(found.name) for found in train)
        if not synsets or "val" not in parts or len(classes.get("test", [])) > 1:
            return None
        if "val" in classes:
            rows = _rows(classes["val"], True)
        else:
            table = read_imagenet_validation(self.roots, Path(parts["val"]), skip=self.skip)
            if table is None:
                return None
            rows, faults = table
            self.faults += faults
        self._say("layout", f"{self.folder}: {folder_name(parts['val'])} is the test, as published")
        self.published = True
        return rows

    def _sorted(
        self, parts: dict[str, str], part: str, classes: list[_Class], names: set[str]
    ) -> list[_Class]:
        """Return the classes of a part; one folder of unsorted images is no class of it."""
        if part not in parts or len(classes) > 1 or any(c.name in names for c in classes):
            return classes
        what = (
            "the test is split off train/" if part == "test" else "validation is split off train/"
        )
        self._say(
            "layout",
            f"{parts[part]} has no class folders and is left out: {what}; "
            f"sort its images into {folder_name(parts[part])}CLASS_NAME/",
        )
        return []

    def _list(self, path: str) -> _Listing:
        """List a folder; what never counts is noted."""
        folders, tree = listing(path)
        self.clutter += tree.clutter
        self.broken += tree.broken
        return _Listing(folders, tree.files)

    def _without_unlabelled(self, top: _Listing) -> _Listing:
        """Set apart a folder of images that have no class yet, where other folders are classes."""
        apart = [path for path in top.folders if os.path.basename(path).casefold() in UNLABELLED]
        if len(apart) == len(top.folders):
            return top
        for path in apart:
            tree = walk(path, self.above)
            self.clutter += tree.clutter
            self.broken += tree.broken
            found = [file for file in tree.files if looks_like_image(file)]
            self.loose += found
            self._left_out(f"images in {folder_name(path)}", found, self.folder)
        return _Listing([path for path in top.folders if path not in apart], top.files)

    def _parts(self, folders: list[str]) -> dict[str, str]:
        """Return the folder of each part; none if they are classes."""
        named = [path for path in folders if os.path.basename(path).casefold() in PARTS]
        rest = [path for path in folders if path not in named] if named else []
        others = [path for path in rest if holds_images(path)]
        parts: dict[str, str] = {}
        for path in named:
            part = PARTS[os.path.basename(path).casefold()]
            if part in parts and not others:
                both = f"{folder_name(parts[part])} and {folder_name(path)}"
                self._say(
                    "layout", f"{self.folder} has {both}, both for {part}: merge them", fatal=True
                )
            parts.setdefault(part, path)
        nested = [path for path in named if listing(path)[0]]
        if others and nested:
            self._say(
                "layout",
                f"{self.folder}: {folder_names(nested)} is read as a class, because "
                f"{folder_names(others)} lies beside; move what is no part away to have a train "
                "part",
            )
        if not others and nested and "train" not in parts:
            text = f"{self.folder} has {folder_names(nested)} and no train/; rename or add it"
            self._say("layout", text, fatal=True)
        return parts if "train" in parts and not others else {}

    def _classes(self, folder: str, listing: _Listing) -> list[_Class]:
        """List a folder of class folders; empty ones are noted."""
        if not listing.folders:
            self._say(
                "layout",
                f"{folder} has no class folders; expected {folder}/CLASS_NAME/image.png, "
                "or train/ and test/ with a folder per class",
                fatal=True,
            )
        classes = []
        for path in listing.folders:
            tree = walk(path, self.above | {folder})
            self.clutter += tree.clutter
            self.broken += tree.broken
            for link in tree.repeated:
                self._say("links", f"{link} leads to a folder that is read already")
            files = self._without_notes(path, tree.files)
            if files:
                classes.append(_Class(os.path.basename(path), files))
            else:
                self.empty.append(path)
        return classes

    def _without_notes(self, path: str, files: list[str]) -> list[str]:
        """Leave out texts and tables that lie beside a class's folder ``images``."""
        inner = os.path.join(path, "images", "")
        notes = [f for f in files if not f.startswith(inner) and not looks_like_image(f)]
        if len(notes) == len(files) or not any(f.startswith(inner) for f in files):
            return files
        self._left_out("files beside images/", notes, path)
        return [f for f in files if f not in set(notes)]

    def _name_loose(self, folder: str, files: list[str]) -> None:
        """Name images that lie beside class folders: nothing says which class they have."""
        found = [path for path in files if looks_like_image(path)]
        self.loose += found
        self._left_out(
            LOOSE,
            found,
            folder,
            "; put them into a class folder",
        )

    def _tables(self, images: str, tables: list[str]) -> Layout:
        """List images by tables of file name and class."""
        rows: set[Row] = set()
        for table in tables:
            found, faults = read_table(Path(table), Path(images), skip=self.skip)
            rows.update(found)
            self.faults += faults
        listed: dict[str, str] = {}
        for row in sorted(rows):
            if listed.setdefault(row.path, row.label) != row.label:
                name, both = (
                    os.path.relpath(row.path, images),
                    f"'{listed[row.path]}', '{row.label}'",
                )
                text = (
                    f"{self.folder}: two tables give {name} the classes {both}; delete one of them"
                )
                self._say(AT_ODDS, text, fatal=True)
        others = [path for path in self._list(images).files if path not in listed]
        self._left_out("files that no table lists", others, images)
        ordered = sorted(rows, key=lambda row: (row.label, row.path))
        self.published = True
        return self._finish(ordered)

    def _report_broken(self) -> None:
        """Turn what can't be read into faults; with ``skip_unreadable`` into one line a kind."""
        leave = "or set data.skip_unreadable=true"
        if self.skip:
            self._left_out("empty class folders", self.empty, self.folder)
            self._left_out("broken links and files", [path for path, _ in self.broken], self.folder)
        else:
            for path in self.empty:
                text = f"{path} is empty; put images there or delete the folder, {leave}"
                self._say("empty class folders", text, fatal=True)
            for path, what in self.broken:
                text = f"{path} {what}; restore or delete it, {leave}"
                self._say("broken links and files", text, fatal=True)
        if self.clutter:
            names = Counter(os.path.basename(path) for path in self.clutter)
            found = [f"{name} ({n})" if n > 1 else name for name, n in names.most_common()]
            text = f"{self.folder}: {QUIET} left out ({len(self.clutter)}): {some(found)}"
            self._say(QUIET, text)

    def _left_out(self, kind: str, paths: list[str], folder: str, remedy: str = "") -> None:
        """Say in one line how many files are left out, and name the first."""
        if paths:
            names = [os.path.relpath(path, folder) for path in sorted(paths)]
            text = f"{folder}: {kind} left out ({len(paths)}): {some(names)}{remedy}"
            self._say(kind, text)

    def _say(self, kind: str, text: str, *, fatal: bool = False) -> None:
        self.faults.append(Fault(kind, text, fatal))


def _rows(
    classes: list[_Class], is_test: bool | None, labels: dict[str, str] | None = None
) -> list[Row]:
    """Return a part's files, by class name and path."""
    named = class_labels(c.name for c in classes) if labels is None else labels
    ordered = sorted(classes, key=lambda found: found.name)
    return [Row(path, named[found.name], is_test) for found in ordered for path in found.files]
