"""A cache folder of sources, for all processes: decoded arrays, or lists of files that stream."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables import artifacts
from trainables.data import image_files
from trainables.data.data_settings import Fitting
from trainables.data.decode import Head, check_files, common_size, decode_all, read_heads
from trainables.data.image_files import DIGESTS, ImageFiles, take, way_of
from trainables.data.source_cache import Files, Images, Integers, Source, file_digests

IMAGES, GROUPS, WAY = "images.npy", "groups.npy", "way.json"
VALIDATION = "validation.npy"
DIGEST_BYTES = 32


class Opened(NamedTuple):
    """Images of files ``[M, S, S, 3]``, and for each its head; unreadable images are undefined."""

    images: artifacts.Images
    heads: list[Head]
    files: Files

    def take(self, indices: Integers) -> Opened:
        """Return those at these positions."""
        files = self.files._replace(digests=self.files.digests[indices])
        return Opened(take(self.images, indices), [self.heads[n] for n in indices], files)


def open_images(
    files: Sequence[str], image_size: int | None, fitting: Fitting, *, check: bool, cache: Path
) -> Opened:
    """Decode files to squares of one size; more than 2 GB of them stay files.

    Args:
        files: The files.
        image_size: Height and width; ``None`` keeps the files' size if all are squares of one size
            (of 8 or more), else 32.
        fitting: How an image becomes a square.
        check: Decode all files once even if they stay files, so that all damage is known. Without
            it only damage that the head of a file tells is known.
        cache: Folder of decoded arrays; files that one of them holds are not decoded again.
    """
    size = image_size or common_size(files)
    digests = [sha256(digest.encode()).digest() for digest in file_digests(files)]
    table = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    content = Files(table, way_of(size, fitting))
    if len(files) * size**2 * 3 > image_files.STREAMED_BYTES:
        heads = check_files(files, size, fitting) if check else read_heads(files)
        return Opened(ImageFiles(files, table, size, fitting), heads, content)
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    new = _copy_decoded(images, content, cache)
    decoded = decode_all([files[n] for n in new], [images[n] for n in new], fitting)
    heads = read_heads(files) if len(new) < len(files) else decoded
    for number, head in zip(new, decoded, strict=True):
        heads[number] = head
    return Opened(images, heads, content)


def _copy_decoded(images: Images, files: Files, cache: Path) -> list[int]:
    """Copy images from arrays that hold files of the same content; return the rows of others."""
    left: dict[bytes, list[int]] = {}
    for row, digest in enumerate(files.digests):
        left.setdefault(digest.tobytes(), []).append(row)
    for note in sorted(cache.glob(f"*/{WAY}")):
        with suppress(OSError, ValueError):  # it is being removed, or is damaged
            if note.read_text(encoding="utf-8") != files.way:
                continue
            stored = np.load(note.with_name(IMAGES), mmap_mode="r")
            for position, digest in enumerate(np.load(note.with_name(DIGESTS))):
                for row in left.pop(digest.tobytes(), ()):
                    images[row] = stored[position]
    return sorted(row for rows in left.values() for row in rows)


def cached(cache: Path, key: str, build: Callable[[], Source], root: Path = Path()) -> Source:
    """Return the stored source of this key, memory-mapped; build and store a missing source first.

    Of images that stay files their paths below ``root`` are stored, which may have moved since.
    The folder is written under another name and renamed, so it is always complete. Processes that
    build the same key at the same time all succeed; one of their equal copies is kept.
    """
    folder = cache / key
    if not (folder / "source.json").is_file():
        source = build()
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=cache))
        try:
            _write(source, draft, root)
            draft.rename(folder)
        except OSError:
            if not (folder / "source.json").is_file():  # no other process has stored it meanwhile
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return _read(folder, root)


def _write(source: Source, folder: Path, root: Path) -> None:
    if isinstance(source.images, ImageFiles):
        source.images.save(folder, root)
    else:
        np.save(folder / IMAGES, np.asarray(source.images))
    if source.files is not None and not isinstance(source.images, ImageFiles):
        np.save(folder / DIGESTS, source.files.digests)
        (folder / WAY).write_text(source.files.way, encoding="utf-8")
    np.save(folder / "labels.npy", source.labels)
    np.save(folder / "is_test.npy", source.is_test)
    if source.groups is not None:
        np.save(folder / GROUPS, source.groups)
    if source.validation is not None:
        np.save(folder / VALIDATION, source.validation)
    plain = {
        "class_names": source.class_names,
        "superclasses": source.superclasses,
        "digest": source.digest,
        "skipped": source.skipped,
        "copies": source.copies,
        "sizes": source.sizes,
    }
    (folder / "source.json").write_text(json.dumps(plain), encoding="utf-8")
    os.chmod(folder, 0o755)  # mkdtemp's folder is private; other users may share the cache


def _read(folder: Path, root: Path) -> Source:
    array, groups, validation = folder / IMAGES, folder / GROUPS, folder / VALIDATION
    plain = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    supers = plain["superclasses"]
    return Source(
        images=np.load(array, mmap_mode="r") if array.is_file() else ImageFiles.load(folder, root),
        labels=np.load(folder / "labels.npy"),
        is_test=np.load(folder / "is_test.npy"),
        class_names=tuple(plain["class_names"]),
        superclasses=None if supers is None else tuple(supers),
        digest=plain["digest"],
        skipped=tuple(plain["skipped"]),
        copies=tuple(plain["copies"]),
        sizes=tuple((width, height) for width, height in plain["sizes"]),
        groups=np.load(groups) if groups.is_file() else None,
        validation=np.load(validation) if validation.is_file() else None,
    )
