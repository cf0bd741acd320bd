"""A head without some classes: equal to one that is fitted anew to the other classes' images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.artifacts import Classifier
from trainables.closed_form.statistics import Samples, samples
from trainables.features.predict import predict_logits
from trainables.features.rebalancer_search import fit_closed_forms
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.rehearsal.without import Heads, part

COUNTS = torch.tensor([40, 12, 25, 8])
WIDTH = 30
RECIPES: list[Any] = [
    "ridge",
    {"ridge": {"balance": "logit_adjusted", "regularizer": 0.01}},
    {"ridge": {"width": 50, "balance": "effective_number", "intercept": False}},
    "lda",
    {"lda": {"shrinkage": 0.2, "prior": 1.0, "unbiased": False}},
    {"ncm": {"distance": "cosine", "scale": "fitted"}},
    "fecam",
    {"knn": {"k": 3}},
]


def data(seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(4), COUNTS)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centers = torch.randn(4, WIDTH, generator=generator)
    features = centers[labels] + torch.randn(len(labels), WIDTH, generator=generator) + 0.5
    return samples(features, labels)


def anew(recipe: Any, all_images: Samples, rows: torch.Tensor, asked: torch.Tensor):
    """Return logits of a head that is fitted to some rows alone, out of fold and of others."""
    old = all_images.labels[rows].unique()
    labels = torch.searchsorted(old, all_images.labels[rows])
    own = samples(all_images.features[rows], labels, groups=all_images.groups[rows])
    counts = torch.bincount(labels)
    blank = Classifier(
        Head.parse("linear"), WIDTH, {}, torch.zeros(len(old)), counts, torch.zeros(WIDTH)
    )
    ((_, fit),) = fit_closed_forms([Rebalancer.parse(recipe)], blank, own)
    return fit.logits, predict_logits(fit.classifier, all_images.features[asked])


@pytest.mark.parametrize("new", [(2,), (0, 3)], ids=str)
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_class_is_taken_away_exactly(recipe: Any, new: tuple[int, ...]) -> None:
    all_images = data()
    parted = part(all_images, new)
    heads = Heads(Rebalancer.parse(recipe), all_images, Head.parse("linear"))
    found = heads.without(parted, seed=0)
    stay = ~torch.isin(all_images.labels, torch.tensor(new))
    known, others = anew(recipe, all_images, stay.nonzero().flatten(), parted.new)
    assert found.counts.tolist() == [int(n) for c, n in enumerate(COUNTS) if c not in new]
    torch.testing.assert_close(found.known, known.float(), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.new, others, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("recipe", ["ridge", "lda"])
def test_known_images_of_a_burst_with_new_ones_leave_too(recipe: str) -> None:
    all_images = data()
    first = [int((all_images.labels == label).nonzero()[0]) for label in (0, 2)]
    groups = all_images.groups.clone()
    groups[first[0]] = groups[first[1]]
    shared = all_images._replace(groups=groups)
    parted = part(shared, (2,))
    assert len(parted.known.labels) == int(COUNTS.sum()) - 25 - 1
    heads = Heads(Rebalancer.parse(recipe), shared, Head.parse("linear"))
    found = heads.without(parted, seed=0)
    stay = all_images.labels != 2
    stay[first[0]] = False
    known, others = anew(recipe, shared, stay.nonzero().flatten(), parted.new)
    torch.testing.assert_close(found.known, known.float(), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.new, others, atol=1e-5, rtol=1e-6)


def test_nothing_of_the_fit_depends_on_the_images_that_leave() -> None:
    images = data()
    rows = images.labels == 1
    disturbed = images.features.clone()
    disturbed[rows] = 1000 * torch.rand(12, WIDTH, generator=torch.Generator().manual_seed(9))
    heads = [
        Heads(Rebalancer.parse("ridge"), each, Head.parse("linear")).without(
            part(each, (1,)), seed=0
        )
        for each in (images, images._replace(features=disturbed))
    ]
    torch.testing.assert_close(heads[0].known, heads[1].known, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(heads[0].new, heads[1].new, atol=1.0)


def test_a_trained_head_is_trained_on_the_others_alone() -> None:
    images = data()
    crt = Rebalancer.parse({"crt": {"epochs": 2}})
    found = Heads(crt, images, Head.parse("linear")).without(part(images, (1,)), seed=3)
    changed = images.features.clone()
    changed[images.labels == 1] = 7.0
    again = Heads(crt, images._replace(features=changed), Head.parse("linear"))
    other = again.without(part(images._replace(features=changed), (1,)), seed=3)
    assert torch.equal(found.known, other.known)
    assert found.known.shape == (73, 3)
    assert found.new.shape == (12, 3)
