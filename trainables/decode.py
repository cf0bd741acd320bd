"""Image files to one uint8 array, in parallel, with errors that name the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.errors import ConfigError
from trainables.source_cache import Images, fit_image

DEFAULT_SIZE = 32
MIN_SIZE = 8


class Decoded(NamedTuple):
    """``images [M, H, W, 3]``, which of the files they are, and the names of those left out."""

    images: Images
    positions: list[int]
    skipped: tuple[str, ...]


def decode_all(
    files: Sequence[str], image_size: int | None, root: Path, *, skip_unreadable: bool
) -> Decoded:
    """Decode files to RGB squares of one size.

    Args:
        files: What to decode.
        image_size: Height and width; ``None`` keeps the files' size if all are squares of one size
            (of 8 or more), else 32.
        root: Names in messages are relative to it.
        skip_unreadable: Leave files out that can't be decoded.

    Raises:
        ConfigError: A file can't be decoded, or (with ``skip_unreadable``) none can.
    """
    # Pillow decodes outside of Python's lock, so threads suffice.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        size = image_size or _common_size(list(pool.map(_header_size, files)))
        images = np.empty((len(files), size, size, 3), dtype=np.uint8)
        reasons = list(pool.map(lambda n: _decode(files[n], images[n]), range(len(files))))
    bad = [number for number, reason in enumerate(reasons) if reason]
    if bad and (not skip_unreadable or len(bad) == len(files)):
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ConfigError(
            f"{files[bad[0]]}{more} can't be read as an image ({reasons[bad[0]]}); delete or "
            "replace it, or set data.skip_unreadable=true to leave such files out"
        )
    good = [number for number, reason in enumerate(reasons) if not reason]
    skipped = tuple(os.path.relpath(files[number], root) for number in bad)
    return Decoded(images[good] if bad else images, good, skipped)


def to_rgb(picture: Any) -> Any:
    """Return an upright 8-bit RGB image of any Pillow image.

    Gray is repeated, alpha is dropped (as torchvision's ``ImageFolder`` does), 16 bits keep their
    upper 8, and floating-point images count from 0 to 1, or to 255 if they exceed 1.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F":
            scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        else:
            scale = 1 / 256 if picture.mode != "I" or values.max(initial=0.0) > 255 else 1.0
        picture = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if picture.mode in ("P", "PA"):  # palettes may hold an alpha channel
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _decode(path: str, into: Images) -> str:
    """Decode a file into an array; return in a few words why not, or an empty text."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            into[:] = fit_image(to_rgb(picture), len(into))
            return ""
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        if os.path.getsize(path) == 0:
            return "the file is empty"
        return (
            " ".join(str(error).replace(path, os.path.basename(path)).split())
            or type(error).__name__
        )


def _header_size(path: str) -> tuple[int, int] | None:
    """Return width and height from the file's head, or ``None`` if it is unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            size: tuple[int, int] = picture.size
            return size
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return None


def _common_size(sizes: list[tuple[int, int] | None]) -> int:
    known = {size for size in sizes if size is not None}
    width, height = known.pop() if len(known) == 1 else (0, 0)
    return width if width == height and width >= MIN_SIZE else DEFAULT_SIZE
