"""Gaussian classes: against scikit-learn and against fitting again without each group."""

from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ShrunkCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from trainables.closed_form.gaussian import (
    discriminant,
    leave_out_discriminant,
    shared_gaussian,
    sums_of,
)
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import samples as samples_of

EXACT = {"rtol": 1e-8, "atol": 1e-8}


def samples(counts: tuple[int, ...], width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    centers = torch.randn(len(counts), width, generator=generator, dtype=torch.float64)
    return centers[labels] + 0.7 * noise + 3.0, labels


def model_of(features: torch.Tensor, labels: torch.Tensor, classes: int, weights=None):
    data = samples_of(features, labels, weights=weights)
    return shared_gaussian(sums_of(data, classes))


def refitted(
    features: torch.Tensor,
    labels: torch.Tensor,
    groups: torch.Tensor,
    classes: int,
    *,
    shrinkage: float,
    unbiased: bool = False,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Fit again without each group, one after the other."""
    rows = []
    for row, group in enumerate(groups.tolist()):
        kept = groups != group
        own = None if weights is None else weights[kept]
        model = model_of(features[kept], labels[kept], classes, own)
        weight, bias = discriminant(model, shrinkage=shrinkage, unbiased=unbiased)
        present = model.counts > 0
        logits = features[row] @ weight.T + bias
        logits = logits - logits[present].mean()
        rows.append(torch.where(present, logits, NEVER))
    return torch.stack(rows)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(
    ("counts", "width"), [((30, 12, 5), 4), ((9, 4, 2, 1), 40)], ids=["more rows", "more columns"]
)
def test_answers_out_of_fold_equal_refitting_without_each_group(
    counts: tuple[int, ...], width: int, unbiased: bool
) -> None:
    features, labels = samples(counts, width)
    generator = torch.Generator().manual_seed(1)
    # groups of one, of several images, and of several classes
    groups = torch.randint(len(labels) * 2 // 3, (len(labels),), generator=generator)
    data = samples_of(features, labels, groups=groups)
    model = model_of(features, labels, len(counts))
    shrinkages = (1e-3, 0.1, 0.9)
    found = leave_out_discriminant(data, model, shrinkages=shrinkages, unbiased=unbiased)
    for shrinkage, answers in zip(shrinkages, found, strict=True):
        options = {"shrinkage": shrinkage, "unbiased": unbiased}
        wanted = refitted(features, labels, groups, len(counts), **options)
        torch.testing.assert_close(answers, wanted, **EXACT)


def test_answers_out_of_fold_count_weights() -> None:
    features, labels = samples((9, 5, 2), 6)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(len(labels), generator=generator).double() + 0.05
    groups = torch.randint(10, (len(labels),), generator=generator)
    data = samples_of(features, labels, groups=groups, weights=weights)
    model = model_of(features, labels, 3, weights)
    for unbiased in (False, True):
        options = {"shrinkage": 0.1, "unbiased": unbiased}
        (found,) = leave_out_discriminant(data, model, shrinkages=[0.1], unbiased=unbiased)
        wanted = refitted(features, labels, groups, 3, **options, weights=weights)
        torch.testing.assert_close(found, wanted, **EXACT)


def test_a_weight_of_two_is_an_image_that_is_there_twice() -> None:
    features, labels = samples((6, 4), 3)
    weights = torch.ones(10).double()
    weights[2] = 2.0
    twice = torch.cat([torch.arange(10), torch.tensor([2])])
    wanted = discriminant(model_of(features[twice], labels[twice], 2), shrinkage=0.2)
    found = discriminant(model_of(features, labels, 2, weights), shrinkage=0.2)
    torch.testing.assert_close(found, wanted, **EXACT)


def test_a_group_that_is_a_whole_class_or_all_variance_leaves_finite_answers() -> None:
    features, labels = samples((3, 1, 1), 5)
    groups = torch.tensor([0, 0, 0, 1, 2])  # without group 0 no class has a variance
    model = model_of(features, labels, 3)
    data = samples_of(features, labels, groups=groups)
    (found,) = leave_out_discriminant(data, model, shrinkages=[0.2])
    torch.testing.assert_close(found, refitted(features, labels, groups, 3, shrinkage=0.2), **EXACT)
    assert (found[:3, 0] == NEVER).all()


@pytest.mark.parametrize("shrinkage", [1e-6, 0.3])
def test_discriminant_equals_scikit_learn(shrinkage: float) -> None:
    features, labels = samples((50, 20, 8), 6)
    weight, bias = discriminant(model_of(features, labels, 3), shrinkage=shrinkage)
    estimator = ShrunkCovariance(shrinkage=shrinkage)
    peer = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=estimator)
    peer.fit(features.numpy(), labels.numpy())
    wanted = torch.from_numpy(peer.decision_function(features.numpy()))
    wanted = wanted - torch.bincount(labels).double().log()  # scikit-learn adds the log prior
    wanted = wanted - wanted.mean(dim=1, keepdim=True)
    torch.testing.assert_close(features @ weight.T + bias, wanted, **EXACT)


def test_without_bias_a_rare_class_is_no_further_away_than_it_is() -> None:
    """In many dimensions, the noise of its mean hides a class of few images."""
    counts, width = (400, 6), 150
    centers = torch.randn(2, width, generator=torch.Generator().manual_seed(2)).double() / 4

    def drawn(numbers: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.repeat_interleave(torch.arange(2), torch.tensor(numbers))
        noise = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(seed))
        return centers[labels] + noise.double(), labels

    model, (fresh, truth) = model_of(*drawn(counts, 0), 2), drawn((500, 500), 1)
    recall = []
    for unbiased in (False, True):
        weight, bias = discriminant(model, shrinkage=0.2, unbiased=unbiased)
        right = (fresh @ weight.T + bias).argmax(1) == truth
        recall.append([float(right[truth == label].double().mean()) for label in range(2)])
    assert recall[0][0] - recall[0][1] > 0.5  # nearly all are called the frequent class
    assert recall[1][0] - recall[1][1] < 0.35
    assert sum(recall[1]) > sum(recall[0]) + 0.1


def test_an_absent_class_has_zeros_and_one_image_per_class_is_defined() -> None:
    features, labels = samples((1, 0, 1), 4)
    weight, bias = discriminant(model_of(features, labels, 3), shrinkage=0.1)
    logits = features @ weight.T + bias
    assert logits.argmax(1).tolist() == labels.tolist()
    assert (logits[:, 1] == 0).all()
