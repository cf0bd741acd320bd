"""What a fit tells of a folder: a record, whatever files are called."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.fitting.fit_record import Photos
from orchestrator.fitting.photo_folder import look_at_folder


def test_a_name_that_is_no_text_is_no_end_of_a_fit(tmp_path: Path) -> None:
    """A disk of an old camera: names in Latin-1, in a class folder and beside them."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    pets = os.fsencode(tmp_path / "pets")
    try:
        os.rename(pets + b"/cat/0.png", pets + b"/cat/caf\xe9.png")
        os.rename(pets + b"/dog/0.png", pets + b"/gr\xfcn.png")
    except OSError as error:
        if error.errno != errno.EILSEQ:
            raise
        pytest.skip("this file system takes no such name")
    found = look_at_folder(tmp_path / "pets", tmp_path / "model").photos
    assert Photos.model_validate_json(found.model_dump_json()) == found
    assert found.images == 10
    assert found.loose == ["gr\ufffdn.png"]
    assert found.left_out == {"its name can't be written into a table": ["cat/caf\ufffd.png"]}
