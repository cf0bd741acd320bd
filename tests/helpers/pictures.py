"""Folders of small images for tests."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, color: int = 0, size: tuple[int, int] = (8, 8), noise: int = 0) -> Path:
    """Write one image of a color with random noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([noise, color])
    pixels = rng.integers(0, 40, (size[1], size[0], 3), dtype=np.uint8)
    pixels += np.array([color * 20 % 200, color * 50 % 200, 100], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_folder(
    root: Path, classes: int = 4, train: int = 12, test: int = 4, size: tuple[int, int] = (8, 8)
) -> Path:
    """Write train/ and test/, or one folder per class if ``test`` is 0, and return ``root``."""
    for label in range(classes):
        for n in range(train):
            part = "train/" if test else ""
            draw(root / f"{part}class{label}" / f"{n:03}.png", label, size, n)
        for n in range(test):
            draw(root / "test" / f"class{label}" / f"{n:03}.png", label, size, 1000 + n)
    return root


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose head claims a size that its few bytes could fill a memory with."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
