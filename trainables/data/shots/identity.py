"""Who an image is: digests of its bytes and of its upright pixels, and what its head tells.

An image is known again by content, never by its name: a renamed or moved file has the same bytes,
a file whose metadata were edited has the same pixels, and `trainables.data.shots.near_copies`
finds what was encoded anew by its thumbnail.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from trainables.data.decode import in_threads, reason_of, to_rgb
from trainables.data.source_cache import Images

THUMBNAIL = 32  # height and width of what near copies are found by
SMOOTH = 1.0  # standard deviation in pixels of what makes a thumbnail smooth
AT_ONCE = 64  # files between two reports of progress
FULL_PIXELS = 2_000_000  # JPEG files above are decoded at 1/2, 1/4 or 1/8 of their size
_CAMERA = (0x010F, 0x0110)  # make, model
_EXIF, _TAKEN, _OFFSET, _FRACTION = 0x8769, 0x9003, 0x9011, 0x9291


class Content(NamedTuple):
    """What a file holds.

    ``bytes_digest`` and ``pixel_digest`` are SHA-256 (hex), ``size`` width and height of the
    upright image, ``taken`` the capture time in seconds (NaN: the file tells none), ``camera`` its
    make and model, ``kind`` the file format, ``thumbnail`` smooth, uint8 ``[32, 32, 3]``.
    ``reason`` says in a few words why a file is no image that can be read; then the others but
    ``bytes_digest`` are empty.
    """

    bytes_digest: str
    pixel_digest: str = ""
    size: tuple[int, int] = (0, 0)
    taken: float = math.nan
    camera: str = ""
    kind: str = ""
    thumbnail: Images = np.zeros((THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    reason: str = ""


def read_contents(
    files: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, Content]]:
    """Yield each file with its content, in order; files are decoded in parallel threads.

    Args:
        files: The files.
        progress: Called with the number of files that are done, and of all.
    """
    for start in range(0, len(files), AT_ONCE):
        block = files[start : start + AT_ONCE]
        yield from zip(block, in_threads(read_content, block), strict=True)
        if progress is not None:
            progress(start + len(block), len(files))


def read_content(path: str) -> Content:
    """Read one file whole and decode it.

    JPEG files of more than two million pixels are decoded at the largest of 1/2, 1/4 and 1/8 of
    their size that has less: this is what libjpeg reads several times faster. Files of one JPEG
    stream have one digest all the same, whatever their metadata.
    """
    from PIL import Image

    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        return Content("", reason=error.strerror or type(error).__name__)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        with Image.open(io.BytesIO(raw)) as picture:
            return _decoded(picture, digest)
    except Exception as error:  # parsers of foreign bytes raise whatever they run into
        return Content(digest, reason=reason_of(path, error))


def _decoded(picture: Any, digest: str) -> Content:
    from PIL import Image, ImageFilter

    kind, exif = str(picture.format or ""), _exif(picture)
    full = picture.size
    scale = next((s for s in (1, 2, 4) if full[0] * full[1] <= FULL_PIXELS * s * s), 8)
    picture.draft(None, (math.ceil(full[0] / scale), math.ceil(full[1] / scale)))
    upright = to_rgb(picture)
    turned = (upright.width < upright.height) != (full[0] < full[1])
    pixels = hashlib.sha256(str(upright.size).encode() + upright.tobytes()).hexdigest()
    side = (THUMBNAIL, THUMBNAIL)
    small = upright.resize(side, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(SMOOTH))
    size = (full[1], full[0]) if turned else (full[0], full[1])
    return Content(digest, pixels, size, _taken(exif), _camera(exif), kind, np.asarray(small))


def _exif(picture: Any) -> dict[int, Any]:
    """Return the tags of an image's first and of its EXIF directory; damage hides them."""
    with suppress(Exception):  # what no camera should have written
        found = picture.getexif()
        return {**dict(found), **found.get_ifd(_EXIF)}
    return {}


def _camera(exif: dict[int, Any]) -> str:
    """Return make and model of the camera; empty where the file tells none."""
    words = (str(exif.get(tag, "")).replace("\0", "").strip() for tag in _CAMERA)
    return " ".join(word for word in words if word)


def _taken(exif: dict[int, Any]) -> float:
    """Return the capture time in seconds since 1970, NaN without; a time without zone is UTC's.

    Example:
        >>> _taken({0x9003: "1970:01:01 00:01:00", 0x9291: "25"})
        60.25
        >>> _taken({0x9003: "0000:00:00 00:00:00"})
        nan
    """
    with suppress(ValueError, OverflowError):
        text = str(exif.get(_TAKEN, "")).replace("\0", "").strip()
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        return moment.timestamp() - _zone(exif) + _fraction(exif)
    return math.nan


def _zone(exif: dict[int, Any]) -> float:
    """Return how many seconds the zone of the capture time is ahead of UTC; 0 without."""
    with suppress(ValueError):
        text = str(exif.get(_OFFSET, "")).replace("\0", "").strip()
        offset = datetime.strptime(text, "%z").utcoffset()
        return offset.total_seconds() if offset else 0.0
    return 0.0


def _fraction(exif: dict[int, Any]) -> float:
    """Return the fraction of a second that EXIF has as a text of its own; 0 without."""
    text = str(exif.get(_FRACTION, "")).replace("\0", "").strip()
    return float(f"0.{text}") if text.isascii() and text.isdecimal() else 0.0
