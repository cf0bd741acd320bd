"""Decode untrusted images within limits of size and format; refuse others in one line."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trainables.data.decode import to_rgb
from trainables.data.source_cache import Images

# formats of browsers and cameras; Pillow's parsers for dozens of rare formats are attack surface
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


class Limits(NamedTuple):
    """Limits of a request, checked before any pixel is decoded.

    Of one image: ``bytes``, ``pixels``, and ``aspect``, the longer side over the shorter side. Of
    one request: ``images``, and ``request_pixels``, the pixels of all images together.
    """

    bytes: int = 10_000_000
    pixels: int = 25_000_000
    images: int = 512
    request_pixels: int = 200_000_000
    aspect: int = 100


DEFAULT_LIMITS = Limits()


class UploadError(ValueError):
    """Refusal of an upload; one line with the reason and the accepted input."""


def decode_uploads(values: Sequence[Any], limits: Limits = DEFAULT_LIMITS) -> list[Images]:
    """Decode the images of a request, each by `decode_upload`.

    The sizes of all images are known and bounded before the first one is decoded.

    Raises:
        UploadError: There are too many images or pixels, or one image is refused; the message has
            its position.
    """
    if len(values) > limits.images:
        raise UploadError(
            f"a request may hold {limits.images} images; received {len(values)}; "
            "send fewer images per request"
        )
    found: list[_Found] = []
    total = 0
    for position, value in enumerate(values):
        try:
            found.append(_inspect(value, limits))
        except UploadError as error:
            raise UploadError(f"image {position}: {error}") from None
        total += found[-1].width * found[-1].height
        if total > limits.request_pixels:
            raise UploadError(
                f"images 0 to {position} have {total:,} pixels together; a request may hold "
                f"{limits.request_pixels:,}: send fewer or smaller images at once"
            )
    images = []
    for position, image in enumerate(found):
        try:
            images.append(_decode(image.content))
        except UploadError as error:
            raise UploadError(f"image {position}: {error}") from None
    return images


def decode_upload(value: Any, limits: Limits = DEFAULT_LIMITS) -> Images:
    """Return one image as uint8 ``[H, W, 3]``.

    Args:
        value: Bytes of an image file (PNG, JPEG, WebP, BMP or the first frame of a GIF), the same
            in base64 (also as a ``data:`` URL), or nested lists or an array ``[H, W, 3]`` of
            integers from 0 to 255.
        limits: Limits; the number of pixels is checked before decoding.

    Raises:
        UploadError: The value is of another kind, damaged, or too large.

    Example:
        >>> decode_upload([[[0, 128, 255]]]).tolist()
        [[[0, 128, 255]]]
    """
    return _decode(_inspect(value, limits).content)


def decode_file(content: bytes, limits: Limits = DEFAULT_LIMITS) -> Images:
    """Decode the bytes of an image file; see `decode_upload`."""
    return decode_upload(content, limits)


class _Found(NamedTuple):
    """An upload within its limits: the bytes of a file, or an image that came as numbers."""

    content: bytes | Images
    width: int
    height: int


def _inspect(value: Any, limits: Limits) -> _Found:
    """Tell an upload's size from its head, and check it.

    Raises:
        UploadError: It is no image, or too large.
    """
    if isinstance(value, str):
        value = _from_base64(value, limits)
    if isinstance(value, bytes | bytearray | memoryview):
        content = bytes(value)
        return _Found(content, *_checked(_size_of_file(content, limits), limits))
    if isinstance(value, list | tuple | np.ndarray):
        image = _from_numbers(value, limits)
        return _Found(image, *_checked((image.shape[1], image.shape[0]), limits))
    raise UploadError(
        f"expected an image file in base64 or numbers [H, W, 3]; received {type(value).__name__}"
    )


def _size_of_file(content: bytes, limits: Limits) -> tuple[int, int]:
    """Return width and height from a file's head."""
    from PIL import Image

    if len(content) > limits.bytes:
        raise UploadError(
            f"the file has {len(content):,} bytes; at most {limits.bytes:,} are accepted"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            size: tuple[int, int] = picture.size
            return size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        text = f"the image has too many pixels; at most {limits.pixels:,} are accepted"
        raise UploadError(text) from None
    except Exception as error:  # parsers of foreign bytes raise whatever they run into
        raise UploadError(_damaged(content, error)) from None


def _checked(size: tuple[int, int], limits: Limits) -> tuple[int, int]:
    """Return width and height if an image may have them."""
    width, height = size
    if width * height > limits.pixels:
        raise UploadError(
            f"the image has {width}x{height} pixels; at most {limits.pixels:,} are accepted"
        )
    if max(size) > limits.aspect * min(size):
        raise UploadError(
            f"the image has {width}x{height} pixels; its longer side may be at most "
            f"{limits.aspect} times the shorter one"
        )
    return width, height


def _decode(content: bytes | Images) -> Images:
    """Decode a file whose size was checked."""
    from PIL import Image

    if not isinstance(content, bytes):
        return content
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            return np.asarray(to_rgb(picture), dtype=np.uint8)
    except Exception as error:  # as above
        raise UploadError(_damaged(content, error)) from None


def _damaged(content: bytes, error: Exception) -> str:
    if not content:
        return "the file is empty"
    if "cannot identify" in str(error):
        return f"the file is not an image of an accepted format ({', '.join(FORMATS)})"
    return f"the file can't be read as an image ({' '.join(str(error).split())[:120]})"


def _from_base64(text: str, limits: Limits) -> bytes:
    """Decode base64, after a check of the file's size by the length of the text."""
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
        raise UploadError("the text is not valid base64 of an image file") from None


def _from_numbers(value: Any, limits: Limits) -> Images:
    """Convert nested numbers to an image."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        _checked((max(1, len(value[0])), len(value)), limits)  # before the numbers are copied
    try:
        image = np.asarray(_plain(value))
    except ValueError:  # rows of different lengths
        image = np.empty(0, dtype=object)
    if image.dtype.kind not in "iu" or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UploadError(
            "expected integers [H, W, 3]; received "
            f"{'uneven or mixed values' if image.dtype == object else image.dtype} "
            f"{list(image.shape)}"
        )
    if image.min() < 0 or image.max() > 255:
        raise UploadError(
            f"expected numbers from 0 to 255; received {image.min()} to {image.max()}"
        )
    return image.astype(np.uint8)


def _plain(value: Any, depth: int = 3) -> Any:
    """Convert a table cell to nested lists or one array; it may be an object array of arrays."""
    if depth == 0 or (isinstance(value, np.ndarray) and value.dtype != object):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part, depth - 1) for part in value]
    return value
