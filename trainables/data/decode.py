"""Image files to one uint8 array, in parallel; each file that can't be decoded has its reason."""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from trainables.data.data_settings import USUAL_FITTING, Fitting
from trainables.data.source_cache import Images, fit_image

DEFAULT_SIZE = 32
MIN_SIZE = 8
UPRIGHT = 1
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF types of whole numbers: BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation(?:="|>)\s*([1-8])(?![0-9])')

Item = TypeVar("Item")
Result = TypeVar("Result")


class Head(NamedTuple):
    """Width and height that a file's head tells, or in a few words why it can't be read."""

    size: tuple[int, int] | None
    reason: str = ""


def decode_all(
    files: Sequence[str], into: Sequence[Images], fitting: Fitting = USUAL_FITTING
) -> list[Head]:
    """Decode each file into an RGB square ``[S, S, 3]``; return the heads.

    Squares of files that can't be read are undefined, and their heads say why.
    """
    pairs = zip(files, into, strict=True)
    return in_threads(lambda pair: decode_into(*pair, fitting), list(pairs))


def read_heads(files: Sequence[str]) -> list[Head]:
    """Read the heads of files: a hundred times faster than decoding, and blind to damage behind."""
    return in_threads(_head, files)


def decode_file(path: str, size: int, fitting: Fitting = USUAL_FITTING) -> Images:
    """Decode one file as training does: any format and size that Pillow reads.

    Raises:
        ValueError: It can't be read as an image; the message says why in a few words.
    """
    image = np.empty((size, size, 3), dtype=np.uint8)
    with _quiet():
        reason = decode_into(path, image, fitting).reason
    if reason:
        raise ValueError(reason)
    return image


def check_files(files: Sequence[str], size: int, fitting: Fitting) -> list[Head]:
    """Decode files without keeping them; return their heads, with the reasons of damaged ones."""
    return in_threads(
        lambda path: decode_into(path, np.empty((size, size, 3), dtype=np.uint8), fitting), files
    )


def silence_pillow() -> None:
    """Silence Pillow's warnings about odd metadata for good, in a process that streams files.

    `_quiet` is for one thread, which waits for those that decode.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map in parallel threads: Pillow and hashlib work outside of Python's lock."""
    with _quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata; entered by one thread, before it starts more.

    They name no file. What can't be decoded raises an error.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_rgb(picture: Any) -> Any:
    """Convert a Pillow image of any mode to an upright 8-bit RGB image.

    A gray channel is repeated, alpha is dropped (as in torchvision's ``ImageFolder``), and 16-bit
    values keep their upper 8 bits. Floating-point values range from 0 to 1, or to 255 if any
    exceeds 1.
    """
    from PIL import Image

    picture = upright(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F":
            scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        else:
            scale = 1 / 256 if picture.mode != "I" or values.max(initial=0.0) > 255 else 1.0
        picture = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if picture.mode in ("P", "PA"):  # a palette may have an alpha channel
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def upright(picture: Any) -> Any:
    """Return a Pillow image turned and mirrored as its orientation says, without metadata.

    Pillow's ``exif_transpose`` does the same where all tags are well-formed. It also writes the
    other tags again, which raises an error for those that no camera should have written.
    """
    from PIL import Image

    picture.load()  # Pillow turns TIFF files itself, and PNG files may have EXIF at their end
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation(picture))
    return picture if method is None else picture.transpose(method)


def orientation(picture: Any) -> int:
    """Return the EXIF orientation of a Pillow image, 1 to 8; 1 where it has none that is valid.

    EXIF comes first, then XMP, as in Pillow.
    """
    info = picture.info
    for block in (info.get("exif"), _from_hex(info.get("Raw profile type exif"))):
        found = exif_orientation(block) if isinstance(block, bytes) else None
        if found is not None:
            return found
    for text in (info.get("XML:com.adobe.xmp"), info.get("xmp")):
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        match = _XMP.search(raw) if isinstance(raw, bytes) else None
        if match:
            return int(match[1])
    return UPRIGHT


def exif_orientation(block: bytes) -> int | None:
    """Return the orientation that an EXIF block holds in its first directory, if it is valid.

    Each entry has 12 bytes of its own, so an entry that points nowhere, or has an unknown type,
    does not hide the one behind it.

    Example:
        >>> entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
        >>> exif_orientation(b"MM" + struct.pack(">HIH", 42, 8, 1) + entry)
        6
    """
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return None
    (count,) = struct.unpack_from(f"{order}H", block, start)
    last = min(start + 2 + 12 * count, len(block)) - 12
    for position in range(start + 2, last + 1, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, position)
        if tag == _ORIENTATION and kind in _INTEGERS and number == 1:
            (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", block, position + 8)
            if 1 <= value <= 8:
                return int(value)
    return None


def _from_hex(text: object) -> bytes | None:
    """Return the EXIF bytes that ImageMagick writes into a PNG text chunk, in hexadecimal."""
    if not isinstance(text, str):
        return None
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def decode_into(path: str, into: Images, fitting: Fitting) -> Head:
    """Decode a file into an array; return its size, or why it can't be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            size: tuple[int, int] = picture.size
            into[:] = fit_image(to_rgb(picture), len(into), fitting)
            return Head(size)
    except Exception as error:  # parsers of foreign bytes raise whatever they run into
        return Head(None, reason_of(path, error))


def _head(path: str) -> Head:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            size: tuple[int, int] = picture.size
            return Head(size)
    except Exception as error:  # as above
        return Head(None, reason_of(path, error))


def reason_of(path: str, error: Exception) -> str:
    """Say in a few words why a file can't be read."""
    from PIL import UnidentifiedImageError

    try:
        if os.path.getsize(path) == 0:
            return "the file is empty"
    except OSError as missing:
        return missing.strerror or type(missing).__name__
    if isinstance(error, UnidentifiedImageError):
        if path.lower().endswith((".heic", ".heif")):
            return "HEIC is not read: convert it to JPEG or PNG"
        return "the file is not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).replace(path, os.path.basename(path)).split())
    return text[:120] or type(error).__name__


def common_size(files: Sequence[str]) -> int:
    """Return the size of files that all are squares of one size (of 8 or more), else 32."""
    known = {head.size for head in read_heads(files) if head.size is not None}
    width, height = known.pop() if len(known) == 1 else (0, 0)
    return width if width == height and width >= MIN_SIZE else DEFAULT_SIZE
