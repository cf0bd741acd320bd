"""Which file each image of a source was decoded from, where some files do not count."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from trainables.data.data_settings import Data
from trainables.data.readers.kept_files import kept_files, source_of
from trainables.data.sources import load_source
from trainables.errors import ConfigError


def test_images_have_their_files_without_broken_ones_and_copies_of_test_images(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    for part, name, number in (
        ("train", "cat", 3), ("train", "dog", 2), ("test", "cat", 1), ("test", "dog", 1)
    ):  # fmt: skip
        folder = tmp_path / "pets" / part / name
        folder.mkdir(parents=True)
        for n in range(number):
            pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{n}.png")
    train = tmp_path / "pets" / "train"
    (train / "dog" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    test_image = (tmp_path / "pets" / "test" / "cat" / "0.png").read_bytes()
    (train / "cat" / "1.png").write_bytes(test_image)
    data = Data(
        source=f"folder:{tmp_path / 'pets'}",
        root=str(tmp_path / "data"),
        image_size=8,
        skip_unreadable=True,
    )
    source = load_source(data.source, Path(data.root), 8, skip_unreadable=True)
    found = kept_files(data, source)
    below = {str(Path(file).relative_to(tmp_path / "pets")) for file in found}
    assert below == {
        "train/cat/0.png", "train/cat/2.png", "train/dog/1.png", "test/cat/0.png", "test/dog/0.png"
    }  # fmt: skip
    for file, image, label in zip(found, source.images, source.labels, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image)
        assert Path(file).parent.name == source.class_names[label]

    Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(train / "cat" / "9.png")
    with pytest.raises(ConfigError, match="changed meanwhile"):
        kept_files(data, source)


@pytest.mark.parametrize(("world", "validates"), [("service", 2), ("test", 0)])
def test_a_service_takes_the_parts_as_they_are_written(
    tmp_path: Path, world: Literal["service", "test"], validates: int
) -> None:
    """In a laboratory validation images join train."""
    draw = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / part / name / "0.png")
    place = f"folder:{tmp_path / 'pets'}"
    data = Data(source=place, root=str(tmp_path / "data"), image_size=8, world=world)
    source = source_of(data)
    assert len(source.labels) == 6
    assert int(source.is_test.sum()) == 2
    assert (0 if source.validation is None else int(source.validation.sum())) == validates
