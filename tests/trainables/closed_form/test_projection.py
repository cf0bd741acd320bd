"""Random features: drawn again from the seed, and a head that stores no matrix."""

from __future__ import annotations

import numpy as np
import torch

from trainables.artifacts import Classifier
from trainables.closed_form.projection import draw_projection, project
from trainables.context import ambient_rng
from trainables.features.predict import predict_logits
from trainables.methods.heads.random_features import RandomFeatures


def test_the_matrix_is_that_of_the_seed_whatever_is_drawn_elsewhere() -> None:
    first = draw_projection(3, 4, seed=7)
    with ambient_rng(torch.Generator().manual_seed(5)):
        draw_projection.cache_clear()
        assert torch.equal(draw_projection(3, 4, seed=7), first)
    assert not torch.equal(draw_projection(3, 4, seed=8), first)
    # the numbers of numpy's frozen generator, here as they were in 2026
    standard = [1.6905257, -0.46593736, 0.03282016, 0.40751627]
    np.testing.assert_allclose(first[0] / (2 / 4) ** 0.5, standard, 1e-6)


def test_random_features_are_as_long_as_the_features() -> None:
    features = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    random = project(features, draw_projection(30, 4000, seed=0))
    torch.testing.assert_close(random.norm(dim=1), features.norm(dim=1), rtol=0.06, atol=0)


def test_a_stored_head_has_no_matrix_and_predicts_the_same() -> None:
    head = RandomFeatures(width=6, seed=3)
    state = {"linear.weight": torch.eye(2, 6), "linear.bias": torch.tensor([0.0, 1.0])}
    assert head.build(4, 2).state_dict().keys() == state.keys()
    zeros = torch.zeros(2)
    classifier = Classifier(head, 4, state, zeros, torch.ones(2), torch.zeros(4))
    features = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, 1.0, 1.0]])
    wanted = (features @ draw_projection(4, 6, seed=3)).clamp_min(0)[:, :2] + torch.tensor([0, 1.0])
    torch.testing.assert_close(predict_logits(classifier, features), wanted)


def test_random_features_follow_the_type_of_the_features() -> None:
    matrix = draw_projection(2, 3, seed=0)
    assert project(torch.ones(1, 2).double(), matrix).dtype == torch.float64
    features = torch.ones(1, 2)
    assert project(features, None) is features
