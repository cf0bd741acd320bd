"""A ridge regression from which classes are taken away: that of the normal equations without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.closed_form import ridge_without
from trainables.closed_form.ridge import solve_each, spectrum
from trainables.closed_form.ridge_classifier import (
    GRID,
    RidgeSettings,
    fit_spectrum,
    left_out_answers,
)
from trainables.closed_form.ridge_without import Left, RidgeOfAll
from trainables.closed_form.statistics import Samples, Statistics, samples

COUNTS = torch.tensor([40, 12, 25, 9])
SETTINGS = {
    "with an intercept": RidgeSettings(),
    "without": RidgeSettings(intercept=False, balance="none"),
    "of random features": RidgeSettings(width=31, balance="effective_number"),
}


class Parted:
    """Samples of four classes far from the origin, in groups of one to three of one class."""

    def __init__(self, settings: RidgeSettings, new: list[int], width: int = 20) -> None:
        generator = torch.Generator().manual_seed(len(new))
        labels = torch.repeat_interleave(torch.arange(4), COUNTS)
        noise = torch.randn(len(labels), width, generator=generator)
        features = 2 + noise + 1.5 * torch.randn(4, width, generator=generator)[labels]
        groups = 100 * labels + torch.randint(20, (len(labels),), generator=generator)
        weights = 0.5 + torch.rand(len(labels), generator=generator)
        data = samples(features, labels, weights=weights, groups=groups)
        self.settings = settings
        self.data = data._replace(projection=settings.projection(features)).computed()
        self.kept = settings.gather(self.data, 4)
        self.of_all = RidgeOfAll(self.data, self.kept, intercept=settings.intercept)
        gone = torch.isin(labels, torch.tensor(new))
        self.leaving, self.staying = gone.nonzero().flatten(), (~gone).nonzero().flatten()
        self.old = torch.tensor([c for c in range(4) if c not in new])

    def left(self) -> tuple[Samples, Statistics]:
        """Return what stays, gathered anew."""
        own = self.data.part(self.staying)
        own = own._replace(labels=torch.searchsorted(self.old, own.labels))
        return own, self.settings.gather(own, len(self.old))

    def without(self, multiples: tuple[float, ...] = GRID) -> Left | None:
        _, kept = self.left()
        blind = kept._replace(gram=torch.full_like(kept.gram, torch.nan))  # it is not read
        return self.of_all.without(self.leaving, self.staying, blind, multiples)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("new", [[3], [0], [1, 2]], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_regression_on_what_stays(name: str, new: list[int]) -> None:
    parted = Parted(SETTINGS[name], new)
    own, kept = parted.left()
    wanted = spectrum(kept, intercept=parted.settings.intercept)
    left = parted.without()
    assert left is not None
    assert left.parts.unit == pytest.approx(wanted.unit, rel=1e-12)
    penalties = [multiple * wanted.unit for multiple in (GRID[0], 0.01, GRID[-1])]
    for found, expected in zip(
        solve_each(left.parts, penalties), solve_each(wanted, penalties), strict=True
    ):
        close(found, expected)
    weights = own.weights * kept.class_weights[own.labels]
    close(
        left_out_answers(left.parts, own, weights, penalties, coordinates=left.coordinates),
        left_out_answers(wanted, own, weights, penalties),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_it_chooses_the_same_regularizer_and_scale(name: str) -> None:
    parted = Parted(SETTINGS[name], [2])
    own, kept = parted.left()
    left = parted.without()
    assert left is not None
    found = next(fit_spectrum(left.parts, kept, own, [None], coordinates=left.coordinates))
    wanted = next(
        fit_spectrum(spectrum(kept, intercept=parted.settings.intercept), kept, own, [None])
    )
    assert found.regularizer == wanted.regularizer
    assert found.judged == wanted.judged == 3
    assert found.scale == pytest.approx(wanted.scale, rel=1e-9)
    close(found.answers, wanted.answers)


def test_a_direction_that_only_those_who_leave_have_is_left_to_a_decomposition() -> None:
    parted = Parted(RidgeSettings(), [3], width=200)  # 86 samples: each has its own direction
    assert parted.without((1e-3,)) is not None
    assert parted.without((1e-14,)) is None


def test_it_pays_where_few_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    of_all = Parted(RidgeSettings(), [3]).of_all  # 86 samples of 20 features
    # a decomposition: 86 * 400 + 7 * 8000 = 90400; a level of n that leave: (n + 1) * 1720
    assert of_all.pays(51, 1)
    assert not of_all.pays(52, 1)
    assert of_all.pays(2, 17)
    assert not of_all.pays(3, 17)
    monkeypatch.setattr(ridge_without, "MOST_KEPT", 1719)
    assert not of_all.pays(2, 17)  # there is no room for the coordinates of all
