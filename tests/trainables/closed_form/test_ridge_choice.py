"""The regularizer of the smallest left-out error is that of asking all; few are asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.closed_form.groups import judging
from trainables.closed_form.ridge import Spectrum, spectrum
from trainables.closed_form.ridge_choice import LeftOutErrors
from trainables.closed_form.ridge_classifier import (
    GRID,
    RidgeSettings,
    choose_regularizer,
    few_asked,
    left_out_answers,
)
from trainables.closed_form.statistics import Samples, samples

CLASSES = 4


class Case:
    """Long-tailed samples, each a group of its own, whose classes lie so far apart."""

    def __init__(self, apart: float, number: int = 150, width: int = 40) -> None:
        generator = torch.Generator().manual_seed(round(10 * apart) + number)
        share = torch.tensor([0.5, 0.25, 0.15, 0.1])
        labels = torch.multinomial(share, number, replacement=True, generator=generator)
        labels[: 3 * CLASSES] = torch.arange(CLASSES).repeat(3)
        noise = torch.randn(number, width, generator=generator) * torch.linspace(3, 0.1, width)
        features = 1 + noise + apart * torch.eye(CLASSES, width)[labels]
        self.data: Samples = samples(features, labels)
        settings = RidgeSettings()
        kept = settings.gather(self.data, CLASSES)
        self.parts: Spectrum = spectrum(kept)
        self.weights: Tensor = self.data.weights * kept.class_weights[labels]
        self.penalties = [multiple * self.parts.unit for multiple in GRID]
        judges = judging(self.data, CLASSES)
        self.judges = judges
        self.share: Tensor = judges / torch.bincount(labels[judges])[labels].double()

    def asked(self) -> LeftOutErrors:
        coordinates = self.parts.coordinates(self.data.inputs(slice(None)))
        return LeftOutErrors(
            self.parts,
            self.data,
            self.weights,
            self.share,
            self.penalties,
            coordinates=coordinates,
        )

    def errors(self) -> Tensor:
        """Return the error of each regularizer from its left-out answers."""
        answers = left_out_answers(self.parts, self.data, self.weights, self.penalties)
        targets = torch.nn.functional.one_hot(self.data.labels, CLASSES)
        return (answers - targets).square().sum(dim=2) @ self.share


@pytest.mark.parametrize("number", [60, 150, 600])
@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0, 10.0])
def test_it_is_the_smallest_of_all(apart: float, number: int) -> None:
    case = Case(apart, number)
    found, errors = case.asked(), case.errors()
    place = found.smallest()
    assert place == int(errors.argmin())
    answers = left_out_answers(case.parts, case.data, case.weights, [case.penalties[place]])[0]
    torch.testing.assert_close(found.answers(place), answers, rtol=0, atol=1e-8)
    assert choose_regularizer(
        case.parts,
        case.data,
        case.weights,
        case.judges,
        coordinates=case.parts.coordinates(case.data.inputs(slice(None))),
    ).multiple == pytest.approx(GRID[place])


def test_each_bound_is_below_the_error() -> None:
    case = Case(1.0)
    found, errors = case.asked(), case.errors().tolist()
    for place in range(len(GRID)):
        assert found._bound(place) <= errors[place]
    found.smallest()
    for place in range(len(GRID)):
        assert found._bound(place) <= errors[place]
        if place in found.leverages:
            error = found._error(place, found.leverages[place])
            assert error == pytest.approx(errors[place], rel=1e-9)


def test_few_are_asked() -> None:
    found = Case(1.0, 600).asked()
    found.smallest()
    assert 2 <= len(found.leverages) <= 9


def test_groups_are_left_to_the_answers_of_all() -> None:
    data = Case(1.0).data
    assert few_asked(data, CLASSES)
    groups = data.groups.clone()
    groups[0] = groups[1]
    assert not few_asked(data._replace(groups=groups), CLASSES)
    assert not few_asked(data, 2**24)
