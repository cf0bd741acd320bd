"""Images that stay files: each is decoded when it is asked for, so that any number fits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from trainables.artifacts import Images, Pixels
from trainables.data.data_settings import Fitting
from trainables.data.decode import decode_into, silence_pillow
from trainables.data.faults import unreadable_files
from trainables.data.source_cache import Booleans, Integers, content_digest
from trainables.errors import DataError
from trainables.models.extraction.stored_features import image_names
from trainables.settings import canonical_json

STREAMED_BYTES = 2 * 10**9  # larger sources stay files
FILES, DIGESTS = "files.json", "digests.npy"


def source_digest(images: Images, labels: Integers, is_test: Booleans) -> str:
    """Return the SHA-256 (hex) of images, labels and test split; of files nothing is decoded."""
    if not isinstance(images, ImageFiles):
        return content_digest(np.asarray(images), labels, is_test)
    way = canonical_json([images.size, *images.fitting]).encode()
    content = (images.digests.tobytes(), labels.tobytes(), is_test.tobytes())
    return hashlib.sha256(way + b"".join(content)).hexdigest()


def way_of(size: int, fitting: Fitting) -> str:
    """Return how files become images, as text: two files of one content give equal images."""
    from PIL import __version__

    return canonical_json([size, *fitting, "pillow", __version__])


class ImageFiles:
    """uint8 ``[M, S, S, 3]`` like an array, whose images are decoded when they are indexed.

    Args:
        paths: The files.
        digests: A digest of each file's content, uint8 ``[M, 32]``.
        size: S.
        fitting: How an image becomes a square.
    """

    def __init__(self, paths: Sequence[str], digests: Pixels, size: int, fitting: Fitting) -> None:
        self.paths = np.array(paths, dtype=object)
        self.digests = digests
        self.size, self.fitting = size, fitting
        silence_pillow()

    @property
    def shape(self) -> tuple[int, ...]:
        """``(M, S, S, 3)``."""
        return len(self.paths), self.size, self.size, 3

    def __len__(self) -> int:
        """Return M."""
        return len(self.paths)

    def __getitem__(self, index: Any, /) -> Pixels:
        """Decode one image ``[S, S, 3]``, or those of an integer array or slice, in threads.

        Raises:
            DataError: Files that can't be decoded.
        """
        single = isinstance(index, int | np.integer)
        images = self._decoded(list(self.paths[[index] if single else index]))
        return images.reshape(images.shape[1:]) if single else images

    def take(self, indices: Integers) -> ImageFiles:
        """Return the images at these positions; nothing is decoded."""
        return ImageFiles(list(self.paths[indices]), self.digests[indices], self.size, self.fitting)

    def names(self, indices: Integers) -> list[bytes]:
        """Return a name of each image, by its file's content and by how it is decoded."""
        way = way_of(self.size, self.fitting).encode()
        return [hashlib.sha256(way + self.digests[index].tobytes()).digest() for index in indices]

    def save(self, folder: Path, root: Path) -> None:
        """Write where the files are below ``root``, and their digests."""
        names = [os.path.relpath(path, root) for path in self.paths]
        plain = {"names": names, "size": self.size, "fitting": self.fitting}
        (folder / FILES).write_text(json.dumps(plain), encoding="utf-8")
        np.save(folder / DIGESTS, self.digests)

    @classmethod
    def load(cls, folder: Path, root: Path) -> ImageFiles:
        """Return what `save` wrote, for files that now are below ``root``."""
        plain = json.loads((folder / FILES).read_text(encoding="utf-8"))
        paths = [os.path.normpath(root / name) for name in plain["names"]]
        digests = np.load(folder / DIGESTS)
        return cls(paths, digests, plain["size"], Fitting(*plain["fitting"]))

    def _decoded(self, paths: list[str]) -> Pixels:
        images = np.empty((len(paths), self.size, self.size, 3), dtype=np.uint8)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            heads = list(pool.map(decode_into, paths, images, repeat(self.fitting)))
        faults = unreadable_files(paths, heads, skip=False)
        if faults:
            raise DataError(faults)
        return images


class Joined:
    """Images of several parts, one behind the other or in any order, without a copy.

    Args:
        parts: Arrays or files, of one size.
        rows: Part and position in the part of each image ``[M, 2]`` int64; by default all, in
            order.
    """

    def __init__(self, parts: Sequence[Images], rows: Integers | None = None) -> None:
        self._parts = tuple(parts)
        if rows is None:
            rows = np.concatenate(
                [
                    np.stack([np.full(len(part), number), np.arange(len(part))], axis=1)
                    for number, part in enumerate(parts)
                ]
            )
        self._rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """``(M, S, S, 3)``."""
        return len(self._rows), *self._parts[0].shape[1:]

    def __len__(self) -> int:
        """Return M."""
        return len(self._rows)

    def __getitem__(self, index: Any, /) -> Pixels:
        """Return one image ``[S, S, 3]``, or those of an integer array or slice."""
        single = isinstance(index, int | np.integer)
        rows = self._rows[[index] if single else index]
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        for number, part in enumerate(self._parts):
            inside = rows[:, 0] == number
            if inside.any():
                images[inside] = part[rows[inside, 1]]
        return images.reshape(images.shape[1:]) if single else images

    def take(self, indices: Integers) -> Joined:
        """Return the images at these positions; nothing is decoded."""
        return Joined(self._parts, self._rows[indices])

    def names(self, indices: Integers) -> list[bytes]:
        """Return a name of each image, see `image_names`."""
        rows = self._rows[indices]
        found = [b""] * len(rows)
        for number, part in enumerate(self._parts):
            inside = np.flatnonzero(rows[:, 0] == number)
            for row, name in zip(inside, image_names(part, rows[inside, 1]), strict=True):
                found[row] = name
        return found


def take(images: Images, indices: Integers) -> Images:
    """Return the images at these positions: a copy of an array, no copy of files."""
    return images.take(indices) if isinstance(images, ImageFiles | Joined) else images[indices]


def join(first: Images, second: Images) -> Images:
    """Return images one behind the other: a copy of arrays, no copy of files."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    return Joined((first, second))
