"""Folders of photos for tests: each number is a scene of its own, unlike all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64


def scene(number: int, side: int = SIDE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a smooth random picture ``[side, side, 3]``, as photos are: few details, all sizes."""
    rng = np.random.default_rng(number)
    picture = np.zeros((side, side, 3))
    for cells in (3, 6, 12):
        coarse = rng.uniform(0, 255 / 3, (cells, cells, 3)).astype(np.uint8)
        picture += np.asarray(
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64
        )
    return picture.clip(0, 255).astype(np.uint8)


def photo(path: Path, number: int, taken: str | None = None, **options: Any) -> Path:
    """Write a scene as a file of the kind that its name says; ``taken`` as EXIF has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(scene(number))
    if taken is not None:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = taken
        options["exif"] = exif
    image.save(path, **options)
    return path


def photo_folder(root: Path, classes: dict[str, int], first: int = 0) -> Path:
    """Write a folder per class with so many photos, each of a scene of its own."""
    number = first
    for name, count in classes.items():
        for n in range(count):
            photo(root / name / f"{n:03}.png", number)
            number += 1
    return root
