"""Profiles: official counts, and one contract for all that stand on the shelf."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.profiles import Profile
from trainables.methods.profiles.exponential import Exponential
from trainables.methods.profiles.step import Step

GOLDEN = golden("protocol")
COUNTS = [name for name in GOLDEN.cases if name.startswith("lt_counts")]


def counts(profile: Profile, num_classes: int, max_count: int) -> Any:
    available = np.full(num_classes, max_count, dtype=np.int64)
    return profile.call_with(
        {"num_classes": num_classes, "max_count": max_count, "available": available}
    )


@pytest.mark.parametrize("case", COUNTS)
def test_counts_equal_official_code(case: str) -> None:
    given = GOLDEN.cases[case]["hyperparameters"]
    wanted = GOLDEN.output(case, "counts").numpy()
    cls = Step if given.get("imb_type") == "step" else Exponential
    profile = cls(imbalance_factor=1.0 / given["imb_factor"])
    found = counts(profile, len(wanted), given.get("n_max", 5000))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("factor", [10, 20, 50, 100, 200])
@pytest.mark.parametrize(("num_classes", "max_count"), [(10, 5000), (100, 500), (7, 106)])
def test_exponential_equals_the_written_formula(
    factor: int, num_classes: int, max_count: int
) -> None:
    found = counts(Exponential(imbalance_factor=float(factor)), num_classes, max_count)
    wanted = [
        max(int(max_count * (1 / factor) ** (c / (num_classes - 1.0))), 1)
        for c in range(num_classes)
    ]
    assert found.tolist() == wanted


def test_step_of_an_odd_number_of_classes_counts_every_class() -> None:
    assert counts(Step(imbalance_factor=100.0), 5, 500).tolist() == [500, 500, 5, 5, 5]


def test_minority_fraction_is_the_part_of_small_classes() -> None:
    found = counts(Step(imbalance_factor=10.0, minority_fraction=0.9), 10, 100)
    assert found.tolist() == [100] + [10] * 9


def test_tail_class_keeps_an_image_under_extreme_imbalance() -> None:
    for profile in (Exponential(imbalance_factor=1e6), Step(imbalance_factor=1e6)):
        assert counts(profile, 10, 50).min() == 1


@pytest.mark.parametrize("profile", list(variants(Profile)))
@pytest.mark.parametrize(("num_classes", "max_count"), [(1, 9), (2, 1), (7, 100), (100, 500)])
def test_contract(profile: Profile, num_classes: int, max_count: int) -> None:
    found = counts(profile, num_classes, max_count)
    assert found.shape == (num_classes,)
    assert found.dtype == np.int64
    assert 0.9 * max_count - 1 <= found[0] <= max_count
    assert (found >= 1).all()
    assert (np.diff(found) <= 0).all()
    assert Profile.parse(profile.dump()) == profile
