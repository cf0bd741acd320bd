"""The benchmark of `fit`: the folder of a stranger, and how answers are counted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fit import balanced, false_alarms, make_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of 55 classes, 6 training images and 2 test images each."""
    rng = np.random.default_rng(0)
    for label in range(55):
        for part, count in (("train", 6), ("test", 2)):
            folder = tmp_path / "data" / part / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{part}{number}.png")
    return tmp_path / "data"


def test_the_folder_has_what_strangers_folders_have(data: Path, tmp_path: Path) -> None:
    stranger = make_folder(data, 0, tmp_path / "there")
    folders = {path.name for path in stranger.photos.iterdir() if path.is_dir()}
    assert folders == {*stranger.counts, "other", "only one"}
    assert len(stranger.counts) == 20
    assert (stranger.photos / "notes.txt").is_file()
    largest = stranger.photos / next(iter(stranger.counts))
    assert len(list(largest.glob("copy_*.png"))) == len(list(largest.glob("burst_*.png"))) == 6
    assert (largest / "broken.png").is_file()
    assert {path.name for path in stranger.fresh.iterdir()} == set(stranger.counts)
    again = make_folder(data, 0, tmp_path / "again")
    assert again.counts == stranger.counts


def test_class_sizes_fall_from_500_to_9(data: Path, tmp_path: Path) -> None:
    sizes = list(make_folder(data, 1, tmp_path).counts.values())
    assert (sizes[0], sizes[-1]) == (500, 9)
    assert sizes == sorted(sizes, reverse=True)


def test_false_alarms_are_counted_by_band() -> None:
    counts = {"cat": 200, "lynx": 9}
    answers = [
        *({"image": f"fresh/cat/{n}.png", "known": n > 0} for n in range(10)),
        *({"image": f"fresh/lynx/{n}.png", "known": n > 1} for n in range(4)),
    ]
    found = false_alarms(answers, counts)
    assert set(found) == {"many", "few"}
    # Clopper-Pearson: 1 of 10 is [.0025, .4450], 2 of 4 is [.0676, .9324]
    assert found["many"] == pytest.approx([0.1, 0.0025, 0.4450], abs=1e-4)
    assert found["few"] == pytest.approx([0.5, 0.0676, 0.9324], abs=1e-4)


def test_balanced_accuracy_is_the_mean_over_classes() -> None:
    assert balanced({"cat": 1.0, "lynx": 0.5}) == 75.0
