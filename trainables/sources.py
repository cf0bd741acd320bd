"""Data sources by name: images, labels and the official test split, before any protocol."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from trainables.errors import ConfigError, did_you_mean
from trainables.folders import load_folder, load_loose_images
from trainables.source_cache import (
    Images,
    Integers,
    Source,
    cached,
    content_digest,
    files_key,
    fit_image,
    stratified_test,
)
from trainables.superclasses import cifar100_superclasses

DIGITS_TEST_FRACTION = 0.3
NOISE_IMAGES = 512


def load_source(
    name: str,
    root: Path,
    image_size: int | None = None,
    *,
    skip_unreadable: bool = False,
    cache: Path | None = None,
) -> Source:
    """Load a source with classes.

    Images from files are decoded once into one array in the cache folder and memory-mapped from
    then on, shared by all processes of a machine.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``textures``, ``noise`` or
            ``folder:PATH`` (see `trainables.folders`).
        root: Folder of the data sets: ``root/cifar10`` with a class per folder, or what torchvision
            has downloaded there.
        image_size: Height and width wanted; ``None`` takes the source's own.
        skip_unreadable: Leave out files that are no images, counted and logged.
        cache: Folder of decoded arrays; by default ``root/.cache``.

    Raises:
        ConfigError: No such source, or it can't be used; the message names file and remedy.
    """
    cache = root / ".cache" if cache is None else cache
    if name == "digits":
        return _digits(image_size or 8)
    if name == "noise":
        return _noise(image_size or 32)
    if name.startswith("folder:"):
        return load_folder(
            _folder_path(name), image_size, skip_unreadable=skip_unreadable, cache=cache
        )
    if name not in _ON_DISK:
        known = ["digits", "noise", *_ON_DISK, "folder:PATH"]
        raise ConfigError(
            f"data.source: unknown source '{name}'; allowed: {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
    found = next((p for p in _folders_of(name, root) if p.is_dir()), None)
    if found is not None:
        source = load_folder(found, image_size, skip_unreadable=skip_unreadable, cache=cache)
    else:
        source = _load_torchvision(name, root, image_size, cache)
    if name == "cifar100":
        source = source._replace(superclasses=cifar100_superclasses(source.class_names))
    return source


def load_unrelated(
    name: str,
    root: Path,
    image_size: int,
    *,
    skip_unreadable: bool = False,
    cache: Path | None = None,
) -> Source:
    """Load images whose classes do not matter; a ``folder:PATH`` may hold images at any depth.

    Raises:
        ConfigError: As `load_source`.
    """
    if name.startswith("folder:"):
        return load_loose_images(
            _folder_path(name),
            image_size,
            skip_unreadable=skip_unreadable,
            cache=root / ".cache" if cache is None else cache,
        )
    return load_source(name, root, image_size, skip_unreadable=skip_unreadable, cache=cache)


def _folder_path(name: str) -> Path:
    return Path(name.removeprefix("folder:")).expanduser()


def _folders_of(name: str, root: Path) -> list[Path]:
    """Return where a source may lie with a class per folder."""
    return [root / name, *([root / "dtd" / "dtd" / "images"] if name == "textures" else [])]


def _digits(size: int) -> Source:
    """Return scikit-learn's 1,797 handwritten digits of 8x8, enlarged by repeating pixels."""
    spec = find_spec("sklearn")  # found, not imported: that would cost seconds
    if spec is None or spec.origin is None:
        raise ConfigError("data.source=digits: its images come with scikit-learn; install it")
    table = np.loadtxt(
        Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
    gray = np.round(table[:, :64].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    nearest = np.arange(size) * 8 // size
    enlarged = gray[:, nearest[:, None], nearest[None, :]]
    labels = table[:, 64].astype(np.int64)
    is_test = stratified_test(labels, DIGITS_TEST_FRACTION)
    return _in_memory(np.repeat(enlarged[..., None], 3, axis=3), labels, is_test)


def _noise(size: int) -> Source:
    """Return images of nothing: noise of four grain sizes, from single pixels to large blots."""
    rng = np.random.default_rng(0)
    images = np.empty((NOISE_IMAGES, size, size, 3), dtype=np.uint8)
    for number, grain in enumerate((1, 2, 4, 8)):
        cells = -(-size // grain)
        coarse = rng.integers(0, 256, (NOISE_IMAGES // 4, cells, cells, 3), dtype=np.uint8)
        fine = coarse.repeat(grain, axis=1).repeat(grain, axis=2)
        images[number::4] = fine[:, :size, :size]
    labels = np.full(NOISE_IMAGES, -1, dtype=np.int64)
    return _in_memory(images, labels, np.zeros(NOISE_IMAGES, dtype=np.bool_))


def _in_memory(images: Images, labels: Integers, is_test: np.ndarray[Any, Any]) -> Source:
    names = tuple(str(number) for number in range(int(labels.max()) + 1))
    return Source(images, labels, is_test, names, None, content_digest(images, labels, is_test))


_Parts = tuple[Any, Any, list[str]]


def _cifar(name: str, root: Path, part: str) -> _Parts:
    from torchvision import datasets

    cls = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    found = cls(root=str(root), train=part == "train", download=False)
    return found.data, np.array(found.targets), list(found.classes)


def _svhn(name: str, root: Path, part: str) -> _Parts:
    from torchvision import datasets

    found = datasets.SVHN(root=str(root), split=part, download=False)
    return found.data.transpose(0, 2, 3, 1), found.labels, [str(digit) for digit in range(10)]


# What torchvision stores: files that must be there, and how to read a part.
_ON_DISK: dict[str, tuple[tuple[str, ...], Callable[[str, Path, str], _Parts] | None]] = {
    "cifar10": (("cifar-10-batches-py",), _cifar),
    "cifar100": (("cifar-100-python",), _cifar),
    "svhn": (("train_32x32.mat", "test_32x32.mat"), _svhn),
    "textures": ((), None),
}


def _load_torchvision(name: str, root: Path, image_size: int | None, cache: Path) -> Source:
    """Load what torchvision has downloaded to ``root``, through the cache."""
    needed, read = _ON_DISK[name]
    if read is None or not all((root / part).exists() for part in needed):
        places = [str(path) for path in _folders_of(name, root)]
        places += [str(root / part) for part in needed]
        raise ConfigError(
            f"data.source: '{name}' is not below data.root={root}; looked for "
            f"{', '.join(places)}; put it there (a folder per class, or torchvision's files) "
            "or set data.root"
        )

    def build() -> Source:
        parts = [_read(read, name, root, part) for part in ("train", "test")]
        images = np.concatenate([part[0] for part in parts])
        if image_size not in (None, images.shape[1]):
            images = np.stack([fit_image(image, image_size) for image in images])
        labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
        is_test = np.arange(len(labels)) >= len(parts[0][1])
        digest = content_digest(images, labels, is_test)
        return Source(images, labels, is_test, tuple(parts[0][2]), None, digest)

    files = [str(f) for part in needed for f in _files(root / part)]
    return cached(cache, files_key(root, files, [name, image_size]), build)


def _read(read: Callable[[str, Path, str], _Parts], name: str, root: Path, part: str) -> _Parts:
    """Read a part; say what to do when torchvision finds its files damaged."""
    try:
        return read(name, root, part)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"data.source: torchvision can't read '{name}' below {root} ({error}); "
            "delete its files and download them again"
        ) from None


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
