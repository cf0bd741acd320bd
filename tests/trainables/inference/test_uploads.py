from __future__ import annotations

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import bomb
from trainables.inference.uploads import (
    Limits,
    UploadError,
    decode_file,
    decode_upload,
    decode_uploads,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(format_: str = "PNG", image: np.ndarray = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=format_, **options)
    return buffer.getvalue()


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
        (b"GIF89a but not really", "not an image of an accepted format|can't be read"),
        (encoded()[:40], "can't be read|not an image"),
        (encoded("TIFF"), "not an image of an accepted format"),
        ("not base64!", "not valid base64"),
        ("iVBOR", "not valid base64"),
        (None, "received NoneType"),
        (3.5, "received float"),
        ([[[0, 1]]], r"integers \[H, W, 3\]"),
        ([[0, 1, 2]], r"integers \[H, W, 3\]"),
        ([[[0.5, 1.0, 2.0]]], r"received float64"),
        ([[[0, 1, 2]], [[0, 1, 2], [3, 4, 5]]], "uneven or mixed"),
        ([[["a", "b", "c"]]], "integers"),
        ([[[0, 1, 256]]], "from 0 to 255; received 0 to 256"),
        ([[[-1, 1, 2]]], "received -1 to 2"),
        ([[[True, False, True]]], "received bool"),
        ([], "integers"),
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


@pytest.mark.parametrize("size", [(1, 46_729), (46_729, 1), (2, 201)])
@pytest.mark.parametrize("form", ["file", "base64", "numbers"])
def test_extreme_shape_is_refused_before_it_is_decoded(size: tuple[int, int], form: str) -> None:
    """Resized by its shorter side, 1 x 46,729 pixels would take gigabytes."""
    value: object = bomb(*size)  # no pixel of it could be decoded
    if form == "base64":
        value = base64.b64encode(bomb(*size)).decode()
    elif form == "numbers":
        value = [[[0, 0, 0]] * size[0]] * size[1]
    with pytest.raises(UploadError, match="longer side may be at most 100 times the shorter one"):
        decode_upload(value)
    assert decode_upload(np.zeros((200, 2, 3), np.uint8)).shape == (200, 2, 3)


def test_pixels_of_a_request_are_summed_before_any_is_decoded() -> None:
    large = bomb(5000, 5000)  # 25 megapixels, each of them allowed alone
    with pytest.raises(UploadError) as caught:
        decode_uploads([large] * 100)
    assert str(caught.value) == (
        "images 0 to 8 have 225,000,000 pixels together; a request may hold 200,000,000: "
        "send fewer or smaller images at once"
    )
    with pytest.raises(UploadError, match=r"^image 0: the file can't be read"):
        decode_uploads([large] * 8)
    sum_ = Limits(request_pixels=70)
    assert len(decode_uploads([PIXELS, encoded()], sum_)) == 2
    with pytest.raises(UploadError, match="images 0 to 2 have 105 pixels together"):
        decode_uploads([PIXELS, encoded(), PIXELS.tolist()], sum_)


def test_odd_exif_is_no_reason_to_refuse() -> None:
    """A maker's name that points nowhere, before the orientation."""
    block = b"MM\0*" + struct.pack(">IH", 8, 2)
    block += struct.pack(">HHII", 0x010F, 2, 2**31, 2**31)
    block += struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    turned = decode_file(encoded(exif=b"Exif\0\0" + block))
    assert np.array_equal(turned, np.rot90(PIXELS, -1))


@pytest.mark.parametrize("value", [np.array(5), np.zeros((0, 4, 3), np.uint8), [[]], [[], []]])
def test_numbers_without_a_pixel_are_refused(value: object) -> None:
    with pytest.raises(UploadError, match="expected integers"):
        decode_upload(value)


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
