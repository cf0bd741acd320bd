"""Which photo each image of a source is, with corrected labels and files that do not count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.fitting.figures.source_photos import photos_of_source
from orchestrator.fitting.photo_folder import TABLE, look_at_folder
from trainables.data.data_settings import Data
from trainables.data.readers.kept_files import source_of


def test_each_image_has_its_photo(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for part, name, number in (
        ("train", "cat", 3), ("train", "dog", 3), ("test", "cat", 1), ("test", "dog", 1)
    ):  # fmt: skip
        folder = tmp_path / "pets" / part / name
        folder.mkdir(parents=True)
        for n in range(number):
            pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{n}.png")
    train = tmp_path / "pets" / "train"
    labels = tmp_path / "corrected.csv"
    labels.write_text("path,label\ntrain/dog/2.png,cat\n", encoding="utf-8")
    model = tmp_path / "model"
    found = look_at_folder(tmp_path / "pets", model, labels=labels)
    # what only decoding at the size of the model shows
    whole = (train / "dog" / "1.png").read_bytes()
    (train / "dog" / "1.png").write_bytes(whole[:80])
    test_image = (tmp_path / "pets" / "test" / "cat" / "0.png").read_bytes()
    (train / "cat" / "1.png").write_bytes(test_image)
    data = Data(
        source=found.source,
        root=str(tmp_path / "data"),
        image_size=8,
        skip_unreadable=True,
        world="service",
    )
    source = source_of(data)
    photos = photos_of_source(data, model / TABLE, found.images.photos)
    assert len(photos) == len(source.labels)
    for photo, image, label in zip(photos, source.images, source.labels, strict=True):
        assert photo.class_name == source.class_names[label]
        assert np.array_equal(np.asarray(Image.open(photo.file)), image)
    names = {str(p.file.relative_to(tmp_path / "pets")) for p in photos}
    assert "train/dog/2.png" in names
    assert not names & {"train/dog/1.png", "train/cat/1.png"}

    with pytest.raises(ValueError, match="images expected"):
        photos_of_source(data, model / TABLE, found.images.photos[1:])
