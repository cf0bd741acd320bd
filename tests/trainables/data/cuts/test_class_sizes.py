"""Sizes of classes, labelled and unlabelled: official counts, and what fits into a source."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import GOLDEN
from trainables.data.cuts.class_sizes import labelled_sizes, largest_that_fits, unlabelled_sizes
from trainables.experiment import Data, Unlabelled
from trainables.methods.profiles.exponential import Exponential
from trainables.methods.profiles.natural import Natural

VECTORS = np.load(GOLDEN / "longtail_semi.npz")
CASES = json.loads((GOLDEN / "longtail_semi.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_unlabelled_sizes_equal_official_code(case: dict) -> None:
    settings = case["hyperparameters"]
    labelled = VECTORS[case["outputs"]["labelled"]]
    data = Data(profile=Exponential(imbalance_factor=1 / settings["labelled_imb_factor"]))
    np.testing.assert_array_equal(labelled_sizes(data, np.full(10, 5000)), labelled)
    found = unlabelled_sizes(
        labelled,
        ratio=settings["size_factor"],
        imbalance_factor=1 / settings["unlabelled_imb_factor"],
    )
    np.testing.assert_array_equal(found, VECTORS[case["outputs"]["unlabelled"]])
    assert found.dtype == np.int64


@pytest.mark.parametrize("factor", [1.0, 7.0, 100.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 5.0])
def test_unlabelled_sizes_fall_by_their_own_factor_to_their_total(
    factor: float, ratio: float
) -> None:
    labelled = np.array([90_000, 30_000, 10_000, 3_000])
    sizes = unlabelled_sizes(labelled, ratio=ratio, imbalance_factor=factor)
    total = ratio * labelled.sum()
    assert total - 2 * len(labelled) * factor <= sizes.sum() <= total
    assert (np.diff(sizes) <= 0).all()
    assert sizes[0] / sizes[-1] == pytest.approx(factor, rel=0.01)
    turned = unlabelled_sizes(labelled[::-1], ratio=ratio, imbalance_factor=factor)
    np.testing.assert_array_equal(sizes, turned)


@pytest.mark.parametrize("labelled", [[5], [0, 0], [1, 1, 1]])
def test_hardly_any_images_give_hardly_any(labelled: list[int]) -> None:
    sizes = unlabelled_sizes(np.array(labelled), ratio=1.0, imbalance_factor=50.0)
    assert sizes.sum() <= sum(labelled)
    assert (sizes >= 0).all()
    if len(labelled) == 1:
        assert sizes.tolist() == labelled


def test_the_bound_holds_for_every_profile() -> None:
    available = np.array([40, 90, 10])
    natural = Data(profile=Natural(keep=1.0), max_per_class=30)
    assert labelled_sizes(natural, available).tolist() == [30, 30, 10]
    falling = Data(profile=Exponential(imbalance_factor=4.0), max_per_class=8)
    assert labelled_sizes(falling, available).tolist() == [8, 4, 2]
    loose = falling.model_copy(update={"max_per_class": 500})
    none = falling.model_copy(update={"max_per_class": None})
    np.testing.assert_array_equal(labelled_sizes(loose, available), labelled_sizes(none, available))


@pytest.mark.parametrize("factor", [1.0, 25.0, 50.0, 100.0])
def test_the_largest_bound_that_fits_is_the_largest(factor: float) -> None:
    available = np.full(10, 5000)
    data = Data(
        profile=Exponential(imbalance_factor=50.0),
        unlabelled=Unlabelled(ratio=5.0, imbalance_factor=factor),
    )

    def needed(limit: int) -> np.ndarray:
        sizes = labelled_sizes(data.model_copy(update={"max_per_class": limit}), available)
        return sizes + unlabelled_sizes(sizes, ratio=5.0, imbalance_factor=factor)

    most = largest_that_fits(data, available)
    assert (needed(most) <= available).all()
    assert (needed(most + 1) > available).any()


def test_nothing_fits_where_the_ratio_is_too_large() -> None:
    data = Data(unlabelled=Unlabelled(ratio=1000.0))
    assert largest_that_fits(data, np.full(4, 10)) == 0
