from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from trainables.uploads import Limits, UploadError, decode_file, decode_upload, decode_uploads

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(format_: str = "PNG", image: np.ndarray = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=format_, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose head claims a size that its few bytes could fill a memory with."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "value",
    [
        PIXELS,
        PIXELS.tolist(),
        PIXELS.astype(np.int64),
        encoded(),
        bytearray(encoded("BMP")),
        base64.b64encode(encoded("WEBP", lossless=True)).decode(),
        "data:image/png;base64," + base64.b64encode(encoded()).decode(),
        np.array([[None] * 7] * 5, dtype=object),
    ],
    ids=["array", "lists", "integers", "png", "bmp", "base64", "data url", "table cell"],
)
def test_image_comes_as_it_was(value: object) -> None:
    if isinstance(value, np.ndarray) and value.dtype == object:  # as a table hands over lists
        for row in range(5):
            for column in range(7):
                value[row, column] = PIXELS[row, column]
    assert np.array_equal(decode_upload(value), PIXELS)


def test_gray_alpha_and_palette_become_rgb() -> None:
    gray = decode_file(encoded(image=PIXELS[..., 0]))
    assert gray.shape == (5, 7, 3)
    assert np.array_equal(gray[..., 2], PIXELS[..., 0])
    alpha = np.dstack([PIXELS, np.full((5, 7), 9, np.uint8)])
    assert np.array_equal(decode_file(encoded(image=alpha)), PIXELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "the file is empty"),
        (b"GIF89a but not really", "no image that is accepted|can't be read"),
        (encoded()[:40], "can't be read|no image"),
        (encoded("TIFF"), "no image that is accepted"),
        ("not base64!", "no base64"),
        ("iVBOR", "no base64"),
        (None, "received NoneType"),
        (3.5, "received float"),
        ([[[0, 1]]], r"whole numbers \[H, W, 3\]"),
        ([[0, 1, 2]], r"whole numbers \[H, W, 3\]"),
        ([[[0.5, 1.0, 2.0]]], r"received float64"),
        ([[[0, 1, 2]], [[0, 1, 2], [3, 4, 5]]], "uneven or mixed"),
        ([[["a", "b", "c"]]], "whole numbers"),
        ([[[0, 1, 256]]], "from 0 to 255; received 0 to 256"),
        ([[[-1, 1, 2]]], "received -1 to 2"),
        ([[[True, False, True]]], "received bool"),
        ([], "whole numbers"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(value: object, message: str) -> None:
    with pytest.raises(UploadError, match=message) as caught:
        decode_upload(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(6000, 6000), (12_000, 10_000), (60_000, 60_000)])
def test_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(UploadError, match="pixels; at most 25,000,000"):
        decode_file(bomb(*size))


def test_limits_hold_at_their_edge() -> None:
    content = encoded()
    assert decode_file(content, Limits(bytes=len(content), pixels=35)).shape == (5, 7, 3)
    with pytest.raises(UploadError, match="at most 34 are accepted"):
        decode_file(content, Limits(pixels=34))
    with pytest.raises(UploadError, match="at most 34 are accepted"):
        decode_upload(PIXELS.tolist(), Limits(pixels=34))
    small = Limits(bytes=len(content) - 1)
    for value in (content, base64.b64encode(content + b"\0" * 8).decode()):
        with pytest.raises(UploadError, match="bytes; at most"):
            decode_upload(value, small)


def test_request_names_the_position_and_is_bounded() -> None:
    with pytest.raises(UploadError, match="image 1: the file is empty"):
        decode_uploads([PIXELS, b""])
    with pytest.raises(UploadError, match="may hold 2 images; received 3"):
        decode_uploads([PIXELS] * 3, Limits(images=2))
    assert decode_uploads([]) == []
