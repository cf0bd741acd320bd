"""Images from strangers: bounded, decoded defensively, refused with one clear line."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trainables.decode import to_rgb
from trainables.source_cache import Images

# What browsers and cameras send. Pillow knows dozens more, with parsers that nobody reviews.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


class Limits(NamedTuple):
    """What is accepted: bytes and pixels of one image, images of one request."""

    bytes: int = 10_000_000
    pixels: int = 25_000_000
    images: int = 512


DEFAULT_LIMITS = Limits()


class UploadError(ValueError):
    """An upload that is refused: one line that says why and what is allowed."""


def decode_uploads(values: Sequence[Any], limits: Limits = DEFAULT_LIMITS) -> list[Images]:
    """Decode a request's images; each is as in `decode_upload`.

    Raises:
        UploadError: Too many images, or one of them is refused; the line has its position.
    """
    if len(values) > limits.images:
        raise UploadError(
            f"a request may hold {limits.images} images; received {len(values)}: send fewer at once"
        )
    images = []
    for position, value in enumerate(values):
        try:
            images.append(decode_upload(value, limits))
        except UploadError as error:
            raise UploadError(f"image {position}: {error}") from None
    return images


def decode_upload(value: Any, limits: Limits = DEFAULT_LIMITS) -> Images:
    """Return one image as uint8 ``[H, W, 3]``.

    Args:
        value: The bytes of an image file (PNG, JPEG, WebP, BMP, GIF: its first frame), the same in
            base64 (``data:`` URLs too), or nested lists or an array ``[H, W, 3]`` of whole numbers
            from 0 to 255.
        limits: What is accepted; pixels are counted before they are decoded.

    Raises:
        UploadError: It is none of these, damaged, or too large.

    Example:
        >>> decode_upload([[[0, 128, 255]]]).tolist()
        [[[0, 128, 255]]]
    """
    if isinstance(value, str):
        return decode_file(_from_base64(value, limits), limits)
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_file(bytes(value), limits)
    if isinstance(value, list | tuple | np.ndarray):
        return _from_numbers(value, limits)
    raise UploadError(
        f"expected an image file in base64 or numbers [H, W, 3]; received {type(value).__name__}"
    )


def decode_file(content: bytes, limits: Limits = DEFAULT_LIMITS) -> Images:
    """Decode the bytes of an image file; see `decode_upload`."""
    from PIL import Image

    if len(content) > limits.bytes:
        raise UploadError(
            f"the file has {len(content):,} bytes; at most {limits.bytes:,} are accepted"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height <= limits.pixels:
                return np.asarray(to_rgb(picture), dtype=np.uint8)
        size = f"{width}x{height}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        size = "too many"
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, OverflowError) as error:
        raise UploadError(_damaged(content, error)) from None
    raise UploadError(f"the image has {size} pixels; at most {limits.pixels:,} are accepted")


def _damaged(content: bytes, error: Exception) -> str:
    if not content:
        return "the file is empty"
    if "cannot identify" in str(error):
        return f"the file is no image that is accepted ({', '.join(FORMATS)})"
    return f"the file can't be read as an image ({' '.join(str(error).split())[:120]})"


def _from_base64(text: str, limits: Limits) -> bytes:
    """Decode base64; its length tells the file's size before anything is decoded."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > limits.bytes * 4 // 3 + 4:
        raise UploadError(
            f"the file has about {len(text) * 3 // 4:,} bytes; "
            f"at most {limits.bytes:,} are accepted"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UploadError("the text is no base64 of an image file") from None


def _from_numbers(value: Any, limits: Limits) -> Images:
    """Return nested numbers as an image."""
    try:
        image = np.asarray(_plain(value))
    except ValueError:  # rows of different lengths
        image = np.empty(0, dtype=object)
    if image.dtype.kind not in "iu" or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UploadError(
            "expected whole numbers [H, W, 3]; received "
            f"{'uneven or mixed values' if image.dtype == object else image.dtype} "
            f"{list(image.shape)}"
        )
    if image.shape[0] * image.shape[1] > limits.pixels:
        raise UploadError(
            f"the image has {image.shape[1]}x{image.shape[0]} pixels; "
            f"at most {limits.pixels:,} are accepted"
        )
    if image.min() < 0 or image.max() > 255:
        raise UploadError(
            f"expected numbers from 0 to 255; received {image.min()} to {image.max()}"
        )
    return image.astype(np.uint8)


def _plain(value: Any, depth: int = 3) -> Any:
    """Return a table's cell as lists or one array: it may come as arrays of arrays."""
    if depth == 0 or (isinstance(value, np.ndarray) and value.dtype != object):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part, depth - 1) for part in value]
    return value
