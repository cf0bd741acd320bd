"""What a file tells: digests, upright size, capture time, and why it can't be read."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.photos import photo, scene
from trainables.data.shots import identity
from trainables.data.shots.identity import read_content, read_contents


def test_digests_are_of_the_bytes_and_of_the_upright_pixels(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 1)
    found = read_content(str(path))
    assert found.bytes_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = hashlib.sha256(b"(64, 64)" + scene(1).tobytes()).hexdigest()
    assert (found.pixel_digest, found.size, found.kind) == (wanted, (64, 64), "PNG")


def test_a_turned_copy_and_one_with_other_metadata_have_the_same_pixels(tmp_path: Path) -> None:
    upright = Image.fromarray(scene(1)[:40])
    upright.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    one, other = (read_content(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert one.bytes_digest != other.bytes_digest
    assert one.pixel_digest == other.pixel_digest
    assert one.size == other.size == (64, 40)


def test_metadata_of_a_large_jpeg_do_not_count(tmp_path: Path) -> None:
    large = Image.fromarray(scene(3, 1600))
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    large.save(tmp_path / "a.jpg")
    large.save(tmp_path / "b.jpg", exif=exif)
    one, other = (read_content(str(tmp_path / name)) for name in ("a.jpg", "b.jpg"))
    assert one.bytes_digest != other.bytes_digest
    assert one.pixel_digest == other.pixel_digest
    assert other.size == (1600, 1600)
    full = hashlib.sha256(b"(1600, 1600)" + np.asarray(Image.open(tmp_path / "a.jpg")).tobytes())
    assert one.pixel_digest != full.hexdigest()  # it was decoded at half its size


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({0x9003: "1970:01:02 00:00:00"}, 86400.0),
        ({0x9003: "1970:01:02 00:00:00", 0x9011: "+01:00", 0x9291: "5"}, 82800.5),
        ({0x9003: "yesterday"}, math.nan),
        ({}, math.nan),
    ],
)
def test_capture_time(tags: dict[int, str], wanted: float, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    exif[0x010F], exif[0x0110] = "Maker", "Model 1"
    Image.fromarray(scene(1)).save(tmp_path / "a.jpg", exif=exif)
    found = read_content(str(tmp_path / "a.jpg"))
    assert found.taken == wanted or (math.isnan(wanted) and math.isnan(found.taken))
    assert found.camera == "Maker Model 1"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    whole = photo(tmp_path / "whole.jpg", 1).read_bytes()
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    torn = read_content(str(tmp_path / "torn.jpg"))
    assert torn.bytes_digest == hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    assert "truncated" in torn.reason
    missing = read_content(str(tmp_path / "missing.jpg"))
    assert (missing.bytes_digest, missing.reason) == ("", "No such file or directory")


def test_progress_counts_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "AT_ONCE", 2)
    files = [str(photo(tmp_path / f"{n}.png", n)) for n in range(5)]
    told: list[tuple[int, int]] = []
    found = list(read_contents(files, lambda done, total: told.append((done, total))))
    assert [path for path, _ in found] == files
    assert told == [(2, 5), (4, 5), (5, 5)]
