"""What is said of classes without test images: true of a frozen backbone, and of a training."""

from pathlib import Path

import pytest

from orchestrator.fitting.photo_folder import in_numbers
from orchestrator.fitting.training.untested import with_untested
from trainables.data.shots.photo_set import Photo, PhotoSet


def photos(sizes: dict[str, int], *, own: str = "") -> PhotoSet:
    """Return training images; without own parts a class of 50 or more has a test image too."""
    found = [
        Photo(Path(f"/p/{name}/{n}.png"), name, "train", f"{name}{n}", f"{name}{n}", "", (32, 32))
        for name, size in sizes.items()
        for n in range(size)
    ]
    found = [
        p._replace(part="test") if p.file.stem == "0" and sizes[p.class_name] >= 50 else p
        for p in found
    ]
    nobody: frozenset[str] = frozenset()
    parts = frozenset({"train", own}) if own else nobody
    return PhotoSet(Path("/p"), found, [], sorted(sizes), [], parts, ["odd"], nobody, nobody)


def said(images: PhotoSet, trained_at: float | None) -> list[str]:
    told = in_numbers(images)
    found = with_untested(told, images, trained_at=trained_at)
    assert found.model_copy(update={"remarks": told.remarks}) == told
    assert found.remarks[0] == "odd"
    return found.remarks[1:]


def test_a_class_of_one_shot_has_no_figure() -> None:
    images = photos({"cat": 60, "dog": 24, "fox": 3, "owl": 1})
    burst = [p._replace(group="one") if p.class_name == "fox" else p for p in images.photos]
    assert said(images._replace(photos=burst), None) == [
        "dog has under 25 images: it all trains, its figures are out-of-fold",
        "fox, owl have under 25 images: they all train, and have no figure",
    ]


def test_of_a_frozen_backbone_figures_are_out_of_fold() -> None:
    images = photos({"cat": 60, "dog": 24, "fox": 3, "lynx": 30})
    assert said(images, None) == [
        "dog, fox have under 25 images: they all train, their figures are out-of-fold",
        "lynx has no test images yet: it all trains, its figures are out-of-fold",
    ]


def test_of_a_training_figures_are_of_images_kept_out_or_there_are_none() -> None:
    images = photos({"cat": 60, "dog": 24, "fox": 3, "lynx": 30, "wolf": 30})
    assert said(images, 0.05) == [
        "dog, fox have under 25 images: they all train, and have no figure",
        "lynx, wolf have no test images yet: their figures are of images kept out of the training",
    ]
    assert said(photos({"cat": 60, "dog": 24}), 0.05) == [
        "dog has under 25 images: it all trains, and has no figure"
    ]


@pytest.mark.parametrize("trained_at", [None, 0.05])
def test_an_own_validation_part_judges_what_it_has(trained_at: float | None) -> None:
    images = photos({"cat": 60, "dog": 40, "fox": 40}, own="test")
    own = [p._replace(part="val") if p.file == Path("/p/dog/7.png") else p for p in images.photos]
    found = said(images._replace(photos=own), trained_at)
    if trained_at is None:
        assert found == [
            "dog, fox have no images in test/: they all train, their figures are out-of-fold"
        ]
        return
    assert found == [
        "dog has no images in test/: its figures are of images kept out of the training",
        "fox has no images in test/: it all trains, and has no figure",
    ]
