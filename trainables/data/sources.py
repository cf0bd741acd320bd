"""Load data sources by name: images, labels and the official test split."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.data_settings import USUAL_FITTING, Fitting
from trainables.data.folders import folder_content, load_folder
from trainables.data.loose_images import load_loose_images, loose_content
from trainables.data.readers.superclasses import cifar100_superclasses
from trainables.data.readers.tables import is_table
from trainables.data.source_cache import (
    Images,
    Integers,
    Source,
    content_digest,
    files_content,
    files_key,
    fit_image,
    stratified_test,
)
from trainables.data.source_names import FOLDER, TABLE, Columns, own_kind
from trainables.data.stored_sources import cached
from trainables.errors import ConfigError, did_you_mean

DIGITS_TEST_FRACTION = 0.3
NOISE_IMAGES = 512
RECOGNIZED = Columns()  # columns by their usual names


def load_source(
    name: str,
    root: Path,
    image_size: int | None = None,
    *,
    skip_unreadable: bool = False,
    cache: Path | None = None,
    fitting: Fitting = USUAL_FITTING,
    columns: Columns = RECOGNIZED,
    as_written: bool = False,
) -> Source:
    """Load a source with classes.

    Image files are decoded once into one array in the cache folder, which all processes of a
    machine memory-map.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``textures``, ``noise`` or
            ``folder:PATH`` or ``table:PATH`` (see `trainables.data.readers`).
        root: Folder of the data sets, e.g. with ``root/cifar10`` with a class per folder, or
            torchvision's downloaded files.
        image_size: Height and width; ``None`` keeps the source's size.
        skip_unreadable: Skip files that can't be decoded, with a warning that counts them.
        cache: Folder of decoded arrays; by default ``root/.cache``.
        fitting: How an image becomes a square; drawn images (``digits``, ``noise``) are squares.
        columns: Names of a table's columns.
        as_written: Of one's own images; see `trainables.data.cuts.own_parts.with_parts`.

    Raises:
        ConfigError: The source is unknown or unusable; the message names the file and the remedy.
    """
    cache = root / ".cache" if cache is None else cache
    if name == "digits":
        return _digits(image_size or 8)
    if name == "noise":
        return _noise(image_size or 32)
    if own_kind(name):
        return load_folder(
            own_path(name),
            image_size,
            skip_unreadable=skip_unreadable,
            cache=cache,
            fitting=fitting,
            columns=columns,
            as_written=as_written,
        )
    require_source(name, root)
    folder = next((p for p in _folders_of(name, root) if p.is_dir()), None)
    if folder is not None:
        source = load_folder(
            folder,
            image_size,
            skip_unreadable=skip_unreadable,
            cache=cache,
            published=True,
            fitting=fitting,
        )
    else:
        source = _load_torchvision(name, root, image_size, cache, fitting)
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
    fitting: Fitting = USUAL_FITTING,
) -> Source:
    """Load images without using their classes; ``folder:PATH`` may hold images at any depth.

    Raises:
        ConfigError: See `load_source`.
    """
    if own_kind(name):
        return load_loose_images(
            own_path(name),
            image_size,
            skip_unreadable=skip_unreadable,
            cache=root / ".cache" if cache is None else cache,
            fitting=fitting,
        )
    return load_source(
        name, root, image_size, skip_unreadable=skip_unreadable, cache=cache, fitting=fitting
    )


def source_content(
    name: str, root: Path, *, with_classes: bool = True, columns: Columns = RECOGNIZED
) -> str:
    """Return a digest of a source's files, wherever they are; empty if it needs none.

    Args:
        name: Name of the source.
        root: Folder of the data sets.
        with_classes: Take the folder as classes; otherwise as loose images.
        columns: Names of a table's columns.

    Raises:
        ConfigError: The source is unknown, or not there.
    """
    cache = root / ".cache"
    if own_kind(name):
        place = own_path(name)
        if not with_classes:
            return loose_content(place, cache=cache)
        return folder_content(place, cache=cache, columns=columns)
    require_source(name, root)
    if name in _IN_PACKAGE:
        return ""
    folder = next((p for p in _folders_of(name, root) if p.is_dir()), None)
    if folder is not None:
        return folder_content(folder, cache=cache)
    return files_content(root, _torchvision_files(name, root), cache)


def own_path(name: str) -> Path:
    """Return the path of a source ``folder:PATH`` or ``table:PATH``.

    Raises:
        ConfigError: There is no path, or one of the other kind.
    """
    kind = own_kind(name)
    text = name.removeprefix(kind)
    if not text.strip():
        what = "a folder" if kind == FOLDER else "a table"
        raise ConfigError(f"{what} of images is written {kind}PATH; received '{name}'")
    path = Path(text).expanduser()
    if kind == TABLE and path.is_dir():
        raise ConfigError(f"data.source: {path} is a folder; write {FOLDER}{text}")
    if kind == FOLDER and path.is_file() and is_table(path):
        raise ConfigError(f"data.source: {path} is a table; write {TABLE}{text}")
    return path


def require_source(name: str, root: Path) -> None:
    """Refuse a built-in source whose files are not there; nothing is read.

    Raises:
        ConfigError: There is no such source, or not below ``root``.
    """
    if name in _IN_PACKAGE:
        return
    if name not in _ON_DISK:
        known = [*_IN_PACKAGE, *_ON_DISK, f"{FOLDER}PATH", f"{TABLE}PATH"]
        raise ConfigError(
            f"data.source: unknown source '{name}'; allowed: {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
    if not any(path.is_dir() for path in _folders_of(name, root)):
        _reader(name, root)


def require_another(unrelated: str, source: str) -> None:
    """Refuse to take unrelated images from the source itself.

    Raises:
        ConfigError: Both are the same.
    """
    if unrelated == source:
        raise ConfigError(
            "data.stream.unrelated_source: must differ from data.source; received "
            f"'{unrelated}' twice"
        )


def _folders_of(name: str, root: Path) -> list[Path]:
    """Return the folders in which a source with a folder per class is searched."""
    return [root / name, *([root / "dtd" / "dtd" / "images"] if name == "textures" else [])]


def _digits(size: int) -> Source:
    """Return scikit-learn's 1,797 handwritten digits of 8x8, upscaled by repeating pixels."""
    spec = find_spec("sklearn")  # located without importing it, which takes seconds
    if spec is None or spec.origin is None:
        raise ConfigError("data.source=digits: the images are part of scikit-learn; install it")
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
    """Return images of uniform noise with four grain sizes, from 1 to 8 pixels."""
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
    dataset = cls(root=str(root), train=part == "train", download=False)
    return dataset.data, np.array(dataset.targets), list(dataset.classes)


def _svhn(name: str, root: Path, part: str) -> _Parts:
    from torchvision import datasets

    dataset = datasets.SVHN(root=str(root), split=part, download=False)
    return dataset.data.transpose(0, 2, 3, 1), dataset.labels, [str(digit) for digit in range(10)]


_IN_PACKAGE = ("digits", "noise")
# torchvision's required files and the function that reads the train or test part
_ON_DISK: dict[str, tuple[tuple[str, ...], Callable[[str, Path, str], _Parts] | None]] = {
    "cifar10": (("cifar-10-batches-py",), _cifar),
    "cifar100": (("cifar-100-python",), _cifar),
    "svhn": (("train_32x32.mat", "test_32x32.mat"), _svhn),
    "textures": ((), None),
}


def _reader(name: str, root: Path) -> tuple[tuple[str, ...], Callable[[str, Path, str], _Parts]]:
    """Return the files that torchvision downloaded to ``root``, and the function that reads them.

    Raises:
        ConfigError: They are not there.
    """
    needed, read = _ON_DISK[name]
    if read is None or not all((root / part).exists() for part in needed):
        places = [str(path) for path in _folders_of(name, root)]
        places += [str(root / part) for part in needed]
        raise ConfigError(
            f"data.source: '{name}' is not below data.root={root}; looked for "
            f"{', '.join(places)}; add a folder per class or torchvision's files, or set data.root"
        )
    return needed, read


def _load_torchvision(
    name: str, root: Path, image_size: int | None, cache: Path, fitting: Fitting
) -> Source:
    """Load what torchvision has downloaded to ``root``, through the cache."""
    _, read = _reader(name, root)

    def build() -> Source:
        parts = [_read(read, name, root, part) for part in ("train", "test")]
        images = np.concatenate([part[0] for part in parts])
        size = image_size or images.shape[1]
        if size != images.shape[1] or fitting.crop_fraction < 1:
            images = np.stack([fit_image(image, size, fitting) for image in images])
        labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
        is_test = np.arange(len(labels)) >= len(parts[0][1])
        digest = content_digest(images, labels, is_test)
        return Source(images, labels, is_test, tuple(parts[0][2]), None, digest)

    key = files_key(root, _torchvision_files(name, root), [name, image_size, *fitting], cache)
    return cached(cache, key, build)


def _torchvision_files(name: str, root: Path) -> list[str]:
    return [str(file) for part in _reader(name, root)[0] for file in _files(root / part)]


def _read(read: Callable[[str, Path, str], _Parts], name: str, root: Path, part: str) -> _Parts:
    """Read the train or test part; raise a ConfigError with a remedy for damaged files."""
    try:
        return read(name, root, part)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"data.source: torchvision can't read '{name}' below {root} ({error}); "
            "delete its files and download them again"
        ) from None


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
