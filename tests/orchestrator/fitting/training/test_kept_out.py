"""Images that stay out of a training: whole groups, of large classes, enough for the threshold."""

from pathlib import Path

import pytest

from orchestrator.fitting.training.kept_out import enough, keep_out, kept_out, spare
from trainables.data.shots.photo_set import Photo, PhotoSet
from trainables.errors import ConfigError


def photos(sizes: dict[str, int], *, burst: int = 1, part: str = "train") -> PhotoSet:
    """Return photos in shots of ``burst`` images, and one test image of each class."""
    found = [
        Photo(
            Path(f"{name}/{n}.png"), name, part, f"{name}{n // burst}", f"{name}{n}", "", (32, 32)
        )  # type: ignore[arg-type]
        for name, size in sizes.items()
        for n in range(size)
    ]
    found += [
        Photo(Path(f"{name}/test.png"), name, "test", f"{name} test", f"{name} test", "", (32, 32))
        for name in sizes
    ]
    nobody: frozenset[str] = frozenset()
    return PhotoSet(Path("/pets"), found, [], sorted(sizes), [], nobody, [], nobody, nobody)


def counts(found: PhotoSet) -> dict[str, int]:
    names = {p.class_name for p in found.photos}
    return {n: sum(p.class_name == n and p.part == "val" for p in found.photos) for n in names}


def test_a_share_of_each_class_of_25_images_or_more() -> None:
    found = keep_out(photos({"cat": 200, "dog": 100, "fox": 24}), level=0.05)
    assert counts(found) == {"cat": 30, "dog": 15, "fox": 0}  # 15 %
    assert sum(p.part == "test" for p in found.photos) == 3
    assert [p._replace(part="train") for p in found.photos if p.part != "test"] == [
        p for p in photos({"cat": 200, "dog": 100, "fox": 24}).photos if p.part != "test"
    ]


def test_a_larger_share_where_the_threshold_needs_it() -> None:
    assert counts(keep_out(photos({"cat": 120, "dog": 80}), level=0.05)) == {"cat": 23, "dog": 15}
    assert counts(keep_out(photos({"cat": 60, "dog": 40}), level=0.05)) == {"cat": 20, "dog": 13}
    assert kept_out(keep_out(photos({"cat": 500, "dog": 500}), level=0.01)) == 198  # twice 99


def test_groups_stay_whole() -> None:
    found = keep_out(photos({"cat": 100, "dog": 100}, burst=4), level=0.05)
    parts: dict[str, set[str]] = {}
    for photo in found.photos:
        parts.setdefault(photo.group, set()).add(photo.part)
    assert all(len(own) == 1 for own in parts.values())
    assert kept_out(found) == 40  # 19 of 100 are wanted: five shots of each class


def test_too_few_images_are_refused_with_the_remedies() -> None:
    few = photos({"cat": 40, "dog": 24})
    with pytest.raises(ConfigError, match=r"at least 24 images .* can spare 13; .*--backbone NAME"):
        keep_out(few, level=0.05)
    assert kept_out(spare(few, level=0.05)) == 13  # a third of 40
    assert not enough(spare(few, level=0.05), 0.05)


def test_an_own_validation_part_stays_as_it_is() -> None:
    own = photos({"cat": 30, "dog": 30}, part="val")
    assert keep_out(own, level=0.05) == own
    with pytest.raises(ConfigError, match="can spare 20"):
        keep_out(photos({"cat": 10, "dog": 10}, part="val"), level=0.05)
