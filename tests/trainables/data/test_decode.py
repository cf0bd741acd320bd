"""Decoding: orientation whatever else the EXIF block holds, and images of extreme shapes."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.decode import (
    decode_all,
    decode_file,
    exif_orientation,
    orientation,
    read_heads,
    to_rgb,
)
from trainables.data.source_cache import fit_image

PIXELS = np.zeros((6, 9, 3), dtype=np.uint8)
PIXELS[0, :, 0] = 250
PIXELS[:, 0, 1] = 250
# What each orientation says was done to the upright image, undone with NumPy.
UPRIGHT = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}
DIRECTORY = 8
TAGS = (0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0132, 0x8769, 0x8825)
PLACE = TAGS.index(0x0112)


def entry_at(number: int) -> int:
    return DIRECTORY + 2 + 12 * number


def camera_block(order: str, turned: int) -> bytearray:
    """Return an EXIF block as cameras write it: maker, resolution, date, sub-directories."""
    entries = {
        0x010F: (2, 6, struct.pack(order + "I", 200)),
        0x0110: (2, 4, b"cam\0"),
        0x0112: (3, 1, struct.pack(order + "HH", turned, 0)),
        0x011A: (5, 1, struct.pack(order + "I", 210)),
        0x011B: (5, 1, struct.pack(order + "I", 218)),
        0x0128: (3, 1, struct.pack(order + "HH", 2, 0)),
        0x0132: (2, 20, struct.pack(order + "I", 226)),
        0x8769: (4, 1, struct.pack(order + "I", 246)),
        0x8825: (4, 1, struct.pack(order + "I", 270)),
    }
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, (kind, count, value) in entries.items():
        block += struct.pack(order + "HHI", tag, kind, count) + value
    block = block.ljust(200, b"\0") + b"Maker\0".ljust(10, b"\0")
    block += struct.pack(order + "IIII", 72, 1, 72, 1) + b"2024:01:01 00:00:00\0"
    block += struct.pack(order + "HHHI", 1, 0x9000, 7, 4) + b"0232" + bytes(4)
    block = block.ljust(270, b"\0") + struct.pack(order + "HHHI", 1, 1, 2, 2) + b"N\0\0\0"
    return bytearray(block + bytes(4))


def spoil_bytes(block: bytearray, order: str, rng: np.random.Generator) -> bytearray:
    """Overwrite bytes anywhere but in the head and the entry of the orientation."""
    kept = {*range(DIRECTORY + 2), *range(entry_at(PLACE), entry_at(PLACE + 1))}
    for position in rng.integers(0, len(block), int(rng.integers(1, 30))):
        if int(position) not in kept:
            block[position] = int(rng.integers(0, 256))
    return block


def spoil_entry(block: bytearray, order: str, rng: np.random.Generator) -> bytearray:
    """Give another entry a type, a count and an offset that no camera writes."""
    number = int(rng.choice([n for n in range(len(TAGS)) if n != PLACE]))
    count = int(rng.choice([0, 1, 2, 1000, 2**31, 2**32 - 1]))
    words = (int(rng.integers(0, 20)), count, int(rng.integers(0, 2**32)))
    struct.pack_into(order + "HII", block, entry_at(number) + 2, *words)
    return block


def cut_off(block: bytearray, order: str, rng: np.random.Generator) -> bytearray:
    """Cut the block behind the entry of the orientation."""
    return block[: int(rng.integers(entry_at(PLACE + 1), len(block)))]


def spoil_tags(block: bytearray, order: str, rng: np.random.Generator) -> bytearray:
    """Replace the numbers of other tags, by those of sub-directories too."""
    others = (0, 0xFFFF, 0x0100, 0x0113, 0x02BC, 0x8769, 0x8825, 0xA005)
    for number in range(len(TAGS)):
        if number != PLACE and rng.random() < 0.5:
            struct.pack_into(order + "H", block, entry_at(number), int(rng.choice(others)))
    return block


def encoded(block: bytes, format_: str) -> bytes:
    buffer = io.BytesIO()
    options = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    Image.fromarray(PIXELS).save(buffer, format_, exif=b"Exif\0\0" + block, **options[format_])
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("spoil", [spoil_bytes, spoil_entry, cut_off, spoil_tags])
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_odd_tags_beside_the_orientation_do_not_matter(spoil, format_: str) -> None:
    """112 blocks a case, 1,344 in all; each orientation 14 times a case, in both byte orders."""
    for seed in range(112):
        rng = np.random.default_rng(seed)
        order, turned = "<>"[seed % 2], 1 + seed // 2 % 8
        block = bytes(spoil(camera_block(order, turned), order, rng))
        with Image.open(io.BytesIO(encoded(block, format_))) as picture:
            found = np.asarray(to_rgb(picture)).astype(int)
        assert found.shape == UPRIGHT[turned].shape, f"seed {seed}, orientation {turned}"
        difference = np.abs(found - UPRIGHT[turned]).max()
        assert difference <= (60 if format_ == "JPEG" else 0), f"seed {seed}"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_block_is_refused() -> None:
    """Bytes anywhere, the head too: whatever the orientation is then, the pixels are there."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        block = camera_block("<>"[seed % 2], 1 + seed % 8)
        for position in rng.integers(0, len(block), int(rng.integers(1, 40))):
            block[position] = int(rng.integers(0, 256))
        with Image.open(io.BytesIO(encoded(bytes(block), ("PNG", "JPEG")[seed % 2]))) as picture:
            assert sorted(to_rgb(picture).size) == [6, 9]


@pytest.mark.parametrize(
    ("kind", "count", "value", "expected"),
    [
        (3, 1, 8, 8),
        (4, 1, 3, 3),  # a LONG, as some programs write it
        (3, 1, 0, None),
        (3, 1, 9, None),
        (3, 2, 6, None),
        (2, 1, 6, None),
        (5, 1, 6, None),
    ],
)
def test_orientation_counts_if_it_is_valid(
    kind: int, count: int, value: int, expected: int | None
) -> None:
    for order in "<>":
        number = struct.pack(order + ("I" if kind == 4 else "H"), value).ljust(4, b"\0")
        head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 1)
        block = head + struct.pack(order + "HHI", 0x0112, kind, count) + number
        assert exif_orientation(block) == expected
        assert exif_orientation(b"Exif\0\0" + block) == expected
    assert exif_orientation(b"") is None
    assert exif_orientation(b"MM\0*\xff\xff\xff\xff") is None


def test_orientation_in_xmp_and_in_hexadecimal_text() -> None:
    picture = Image.fromarray(PIXELS)
    picture.info["xmp"] = b'<rdf tiff:Orientation="6"/>'
    assert orientation(picture) == 6
    picture.info["xmp"] = b"<tiff:Orientation>3</tiff:Orientation>"
    assert orientation(picture) == 3
    block = bytes(camera_block("<", 5))
    picture.info["Raw profile type exif"] = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    assert orientation(picture) == 5
    picture.info["Raw profile type exif"] = "\nexif\n  1\nno hex\n"
    assert orientation(picture) == 3


def test_turned_tiff_is_upright_once(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", tiffinfo={0x0112: 6})
    with Image.open(tmp_path / "a.tif") as picture:
        np.testing.assert_array_equal(np.asarray(to_rgb(picture)), UPRIGHT[6])


@pytest.mark.parametrize("size", [(1, 46_729), (46_729, 1), (3, 9000)])
def test_long_images_do_not_grow_when_they_are_fitted(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enlarged in full, 1 x 46,729 pixels are 7 GB at 224 x 224."""
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(self: Image.Image, wanted: tuple[int, int], *more: object) -> Image.Image:
        made.append(wanted)
        return resize(self, wanted, *more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    middle = tuple(slice(n // 2 - 8, n // 2 + 8) if n > 16 else slice(None) for n in size[::-1])
    pixels[middle] = 200
    image = fit_image(pixels, 224)
    assert image.shape == (224, 224, 3)
    assert [w * h <= 16 * 224 * 224 for w, h in made] == [True]
    assert (image[112, 112] == 200).all()


def test_long_images_that_are_not_extreme_are_fitted_as_ever() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 640, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels).resize((256, 16), Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((120, 0, 136, 16)))
    np.testing.assert_array_equal(fit_image(pixels, 16), expected)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"", "the file is empty"),
        ("a.png", b"hello", "the file is not an image of a known format"),
        ("IMG_1.HEIC", b"\0\0\0\x18ftypheic", "HEIC is not read: convert it to JPEG or PNG"),
        ("a.png", b"\x89PNG\r\n\x1a\n", ""),
    ],
)
def test_unreadable_files_have_a_reason(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{reason}") as caught:
        decode_file(str(path), 8)
    assert str(tmp_path) not in str(caught.value)
    (head,) = read_heads([str(path)])
    assert head.size is None
    assert head.reason == str(caught.value)


def test_files_that_vanish_and_folders_have_a_reason(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    paths = [str(tmp_path / "none.png"), str(tmp_path / "folder.png")]
    heads = decode_all(paths, np.empty((2, 8, 8, 3), dtype=np.uint8))
    reasons = [head.reason for head in heads]
    assert reasons == [os.strerror(2), os.strerror(21)]


def test_every_format_that_training_takes(tmp_path: Path) -> None:
    from PIL import features

    suffixes = ["png", "jpg", "tif", "bmp", "gif", "webp", "ppm", "tga"]
    suffixes += ["avif"] if features.check("avif") else []
    for suffix in suffixes:
        path = tmp_path / f"a.{suffix}"
        Image.new("RGB", (40, 30), (200, 0, 0)).save(path)
        image = decode_file(str(path), 8)
        assert np.abs(image.astype(int) - [200, 0, 0]).max() <= 6, suffix
