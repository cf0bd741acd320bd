"""The look at a folder of photos: what is there, which images train and test, what is left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from orchestrator.fitting.fit_record import ClassCount, Photos
from orchestrator.options import LEDGER
from trainables.data.readers.tables import is_table
from trainables.data.shots.look import look_at_photos
from trainables.data.shots.photo_set import PhotoSet, write_table
from trainables.errors import ConfigError, readable
from trainables.settings import canonical_json

TABLE = "photos.csv"
# how a reason for leaving a file out begins, and what such files are called together
KINDS = {
    "unreadable": "unreadable",
    "no image": "no images",
    "copy of the test": "copies of test images",
    "copy of": "copies",
    "same image under": "images that two classes have",
    "links": "images that link two parts",
    "in one shot": "images of a shot in another part",
}

Progress = Callable[[str, int, int], None]


class Found(NamedTuple):
    """A folder of photos: what the screen tells, the images, the recipe's source, and a digest."""

    photos: Photos
    images: PhotoSet
    source: str
    digest: str


def look_at_folder(
    folder: Path,
    model: Path,
    *,
    groups: str | Path | None = None,
    labels: Path | None = None,
    progress: Progress | None = None,
) -> Found:
    """Look at a folder, and write down which image trains and which tests.

    Args:
        folder: One folder per class, or ``train/`` and ``test/`` with these; or a table of files.
        model: Folder of the model, for the ledger of parts and the table of images.
        groups: The user's own groups, a table or a pattern.
        labels: A table that corrects labels.
        progress: Told what is read, how much is done, and how much there is.

    Raises:
        ConfigError: There is no such folder, fewer than two classes in it, or a class of which no
            image trains.
    """
    real = folder.expanduser().resolve()
    if not real.exists():
        raise ConfigError(f"{folder}: there is no such folder; give one with a folder per class")
    if real.is_file() and not is_table(real):
        raise ConfigError(
            f"{folder} is a file; give a folder with a folder per class (unpack an archive), or a "
            "table of files with their labels (.csv, .tsv, .txt, .parquet)"
        )
    images = look_at_photos(
        real, ledger=model / LEDGER, groups=groups, labels=labels, progress=progress
    )
    _require_classes(images, folder)
    _require_training_images(images, folder)
    table = model / TABLE
    write_table(images, table)
    rows = [(p.bytes_digest, p.class_name, p.group, p.part) for p in images.photos]
    digest = hashlib.sha256(canonical_json(sorted(rows)).encode()).hexdigest()
    return Found(in_numbers(images), images, f"table:{table}", digest)


def _require_classes(images: PhotoSet, folder: Path) -> None:
    """Refuse a single class; the classes may lie one folder deeper, as in many published sets."""
    if len(images.classes) > 1:
        return
    (name,) = images.classes
    inner = {photo.file.parent for photo in images.photos} - {images.folder / name}
    deeper = (images.folder / name).is_dir() and len(inner) > 1
    hint = f"; did you mean {folder / name}, which has {len(inner)} folders?" if deeper else ""
    raise ConfigError(
        f"{folder}: a model tells two classes or more apart; found {name} alone{hint}"
    )


def _require_training_images(images: PhotoSet, folder: Path) -> None:
    """Refuse a class that has images in other parts alone: no model can know it."""
    trained = {photo.class_name for photo in images.photos if photo.part == "train"}
    for name in images.classes:
        if name in trained:
            continue
        parts = Counter(photo.part for photo in images.photos if photo.class_name == name)
        there = ", ".join(f"{count:,} {part}" for part, count in sorted(parts.items()))
        why = "" if images.own_parts else ", decided by an earlier fit or by images that are alike"
        raise ConfigError(
            f"{folder}: no image of the class '{name}' trains ({there}{why}); add images of "
            f"'{name}' that train, or take the class away"
        )


def in_numbers(images: PhotoSet) -> Photos:
    """Return what the screen tells of a set of photos."""
    parts = Counter((photo.class_name, photo.part) for photo in images.photos)
    total = Counter(photo.part for photo in images.photos)
    sizes = sorted((p.size for p in images.photos), key=lambda size: (size[0] * size[1], size))
    left_out: dict[str, list[str]] = {}
    for file, reason in images.left_out:
        left_out.setdefault(kind_of(reason), []).append(shown(file, images.folder))
    return Photos(
        folder=images.folder.name,
        images=len(images.photos),
        train=total["train"],
        val=total["val"],
        test=total["test"],
        shots=len({photo.group for photo in images.photos}),
        own_parts=sorted(images.own_parts),
        classes=[
            ClassCount(
                name=name,
                train=parts[name, "train"],
                val=parts[name, "val"],
                test=parts[name, "test"],
            )
            for name in images.classes
        ],
        smallest=sizes[0],
        largest=sizes[-1],
        left_out=left_out,
        loose=[shown(file, images.folder) for file in images.loose],
        remarks=[readable(remark) for remark in images.remarks],
    )


def kind_of(reason: str) -> str:
    """Return what files that are left out for a reason are called together.

    Example:
        >>> kind_of("copy of the test image a/1.jpg"), kind_of("copy of a/1.jpg")
        ('copies of test images', 'copies')
    """
    found = (kind for start, kind in KINDS.items() if reason.startswith(start))
    return next(found, reason)


def shown(file: Path, folder: Path) -> str:
    """Return a file as people find it in its folder, in letters that a record can hold."""
    inside = file.relative_to(folder) if file.is_relative_to(folder) else file
    return readable(str(inside))
