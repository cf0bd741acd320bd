"""The fold of classes that plays new: who is in it, and what it trains with."""

import pytest
import torch

from orchestrator.fitting.training.one_fold import (
    auroc,
    classes_of_fold,
    images_of_fold,
    why_not,
)
from tests.orchestrator.fitting.training.test_kept_out import counts, photos


def test_a_fifth_of_the_classes_and_never_a_catch_all() -> None:
    names = [f"class {n:02d}" for n in range(20)]
    found = classes_of_fold(names, names[4:])
    assert found == names[:4]
    assert classes_of_fold(names, []) == classes_of_fold(names[::-1], [])
    assert classes_of_fold(names, [], seed=1) != classes_of_fold(names, [])
    assert len(classes_of_fold(names[:4], [])) == 2
    assert classes_of_fold(names[:3], []) == []  # one would stay known


def test_a_fold_keeps_its_own_images_out() -> None:
    all_photos = photos({"cat": 100, "dog": 100, "fox": 60, "owl": 40})
    fold = images_of_fold(all_photos, ["cat", "dog"], level=0.05)
    assert counts(fold) == {"fox": 20, "owl": 13}  # a third
    assert {p.part for p in fold.photos} == {"train", "val"}  # no test image
    assert fold.classes == ["fox", "owl"]
    assert why_not(fold, ["cat", "dog"], 0.05) == ""
    assert "too few images" in why_not(fold, ["cat", "dog"], 0.01)
    assert "too few classes" in why_not(all_photos, [], 0.05)


def test_ties_count_half() -> None:
    known, new = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.0])
    # of six pairs: 3 > 2, 3 > 0, 1 < 2, 1 > 0, 2 = 2, 2 > 0
    assert auroc(known, new) == pytest.approx(4.5 / 6)
