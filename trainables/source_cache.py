"""What a source is, and the folder of decoded arrays that processes share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.settings import canonical_json

Images = np.ndarray[Any, np.dtype[np.uint8]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]

CACHE_VERSION = 1


class Source(NamedTuple):
    """All images of a source.

    ``images`` uint8 ``[M, H, W, 3]`` (memory-mapped where they come from files), ``labels [M]``
    int64 (-1 where there are no classes), ``is_test [M]``, the superclass of each class if the
    source has any, a digest of the content, and the files that were left out as unreadable.
    """

    images: Images
    labels: Integers
    is_test: Booleans
    class_names: tuple[str, ...]
    superclasses: tuple[int, ...] | None
    digest: str
    skipped: tuple[str, ...] = ()


def content_digest(images: Images, labels: Integers, is_test: Booleans) -> str:
    """Return the SHA-256 (hex) of images, labels and split: equal content, equal digest."""
    digest = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), 4096):
        digest.update(images[start : start + 4096].tobytes())
    digest.update(labels.tobytes())
    digest.update(is_test.tobytes())
    return digest.hexdigest()


def files_key(root: Path, files: Iterable[str], settings: list[Any]) -> str:
    """Return the cache key of files: SHA-256 of relative paths, sizes and modification times.

    A file that changes without changing size and time (in nanoseconds) is not noticed.
    """
    start = os.path.join(root, "")
    facts = [
        [path.removeprefix(start), (stat := os.stat(path)).st_size, stat.st_mtime_ns]
        for path in files
    ]
    text = canonical_json([CACHE_VERSION, settings, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cached(cache: Path, key: str, build: Callable[[], Source]) -> Source:
    """Return the stored source of this key, memory-mapped; build and store it first if need be.

    The folder appears in one rename, complete or not at all. Processes that build the same key at
    the same time all succeed, and one of the equal copies stays.
    """
    folder = cache / key
    if not (folder / "source.json").is_file():
        source = build()
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=cache))
        try:
            _write(source, draft)
            draft.rename(folder)
        except OSError:
            if not (folder / "source.json").is_file():  # not a race that another process won
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return _read(folder)


def _write(source: Source, folder: Path) -> None:
    np.save(folder / "images.npy", source.images)
    np.save(folder / "labels.npy", source.labels)
    np.save(folder / "is_test.npy", source.is_test)
    plain = {
        "class_names": source.class_names,
        "superclasses": source.superclasses,
        "digest": source.digest,
        "skipped": source.skipped,
    }
    (folder / "source.json").write_text(json.dumps(plain), encoding="utf-8")
    os.chmod(folder, 0o755)  # mkdtemp made it private; other users of the machine may share it


def _read(folder: Path) -> Source:
    plain = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    supers = plain["superclasses"]
    return Source(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy"),
        is_test=np.load(folder / "is_test.npy"),
        class_names=tuple(plain["class_names"]),
        superclasses=None if supers is None else tuple(supers),
        digest=plain["digest"],
        skipped=tuple(plain["skipped"]),
    )


def stratified_test(labels: Integers, fraction: float) -> Booleans:
    """Mark a fraction of each class as test, the same one in every process and for every seed.

    A class of two or more images has at least one on each side.
    """
    rng = np.random.default_rng(0)
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        is_test[members[:count]] = True
    return is_test


def fit_image(image: Any, size: int) -> Images:
    """Resize the shorter side of an RGB image to ``size`` and cut the centre square out."""
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        wide, tall = max(size, round(width * scale)), max(size, round(height * scale))
        picture = picture.resize((wide, tall), Image.Resampling.BILINEAR)
        left, top = (wide - size) // 2, (tall - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture, dtype=np.uint8)
