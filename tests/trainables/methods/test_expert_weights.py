"""Weights of experts from unlabelled images: golden vectors, a slow oracle, limits, the stage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.vectors import golden
from trainables.artifacts import Classifier, ImageView
from trainables.context import Context
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.features.augmented_features import AugmentedFeatures
from trainables.features.expert_weights import most_stable_weights, stability
from trainables.features.head_training import head_state
from trainables.features.predict import predict_logits
from trainables.methods.augmentations import Augmentation
from trainables.methods.heads.experts import Experts
from trainables.methods.rebalancers.expert_weights import ExpertWeights
from trainables.models.backbone import build_trunk, extract_features, to_artifact
from trainables.pipeline import plan, run
from trainables.settings import assign

GOLDEN = golden("longtail_expert_weights")
SETTINGS: dict[str, Any] = {"batch_size": 8, "lr": 0.1, "weight_decay": 5e-4, "smallest": 0.0}


def test_weights_equal_official_code_after_every_pass() -> None:
    views = GOLDEN.inputs("expert_weights")["views"]
    for passes in range(1, len(views) + 1):
        pairs = [tuple(pair) for pair in views[:passes]]
        weights = most_stable_weights(pairs, 3, **SETTINGS)
        wanted = GOLDEN.output("expert_weights", "weights")[passes - 1]
        torch.testing.assert_close(weights, wanted, rtol=1e-9, atol=1e-9)


def test_stability_equals_a_slow_oracle() -> None:
    views = GOLDEN.inputs("expert_weights")["views"][0]
    weights = [0.2, 0.5, 0.3]

    def answer(rows: list[list[float]]) -> list[float]:
        mixed = [sum(w * row[c] for w, row in zip(weights, rows, strict=True)) for c in range(4)]
        parts = [math.exp(z) for z in mixed]
        return [part / sum(parts) for part in parts]

    cosines = []
    for first, second in zip(*views.tolist(), strict=True):
        p, q = answer(first), answer(second)
        cosines.append(
            sum(a * b for a, b in zip(p, q, strict=True)) / math.hypot(*p) / math.hypot(*q)
        )
    found = stability(torch.tensor(weights, dtype=torch.float64), *views)
    assert found.item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-9)


def pairs(noise: tuple[float, ...], passes: int = 30) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return views of sure experts, of which each moves by a noise of its own."""
    draw = torch.Generator().manual_seed(0)
    sure = 3 * torch.eye(4)[torch.arange(64) % 4][:, None].expand(-1, len(noise), -1)
    moved = torch.tensor(noise)[:, None]
    shape = sure.shape
    return [
        tuple(sure + moved * torch.randn(shape, generator=draw) for _ in range(2))
        for _ in range(passes)
    ]


def test_the_most_stable_expert_gets_the_largest_weight() -> None:
    weights = most_stable_weights(pairs((2.0, 0.1, 1.0)), 3, **SETTINGS)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[1] > weights[2] > weights[0]


def test_experts_do_not_matter_by_their_place() -> None:
    given = pairs((2.0, 0.1, 1.0), passes=3)
    order = [2, 0, 1]
    turned = [tuple(view[:, order] for view in pair) for pair in given]
    torch.testing.assert_close(
        most_stable_weights(turned, 3, **SETTINGS), most_stable_weights(given, 3, **SETTINGS)[order]
    )


def test_learning_ends_before_one_expert_wins_all() -> None:
    given = pairs((2.0, 0.1), passes=200)
    seen = []

    def counted() -> Any:
        for pair in given:
            seen.append(pair)
            yield pair

    weights = most_stable_weights(counted(), 2, **{**SETTINGS, "smallest": 0.3})
    assert 1 < len(seen) < len(given)
    assert weights.min() < 0.3
    before = most_stable_weights(given[: len(seen) - 1], 2, **SETTINGS)
    assert before.min() >= 0.3


# --- the rebalancer -----------------------------------------------------------------------------


def classifier(count: int = 3) -> Classifier:
    head = Experts(count=count)
    state = head_state(head.build(4 * count, 3))
    zeros = torch.zeros(3)
    return Classifier(head, 4 * count, state, zeros, torch.ones(3), torch.zeros(4 * count))


def weighed(features: torch.Tensor, **changes: Any) -> Classifier:
    def views(augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
        return features + 0.5 * torch.randn(features.shape, generator=generator)

    generator = torch.Generator().manual_seed(2)
    return ExpertWeights(**changes)(
        classifier=classifier(), augmented_pool=views, generator=generator
    )


def test_only_the_weights_of_the_head_change() -> None:
    given, draw = classifier(), torch.Generator().manual_seed(0)
    rows = torch.randn(50, 12, generator=draw)
    result = ExpertWeights()(
        classifier=given,
        augmented_pool=lambda _, source: rows + 0.1 * torch.randn(rows.shape, generator=source),
        generator=draw,
    )
    assert result._replace(head=given.head) == given
    assert isinstance(result.head, Experts)
    assert sum(result.head.weights) == pytest.approx(1, abs=1e-5)
    parts = rows.chunk(3, dim=1)
    logits = [
        part @ given.state[f"experts.{i}.weight"].T + given.state[f"experts.{i}.bias"]
        for i, part in enumerate(parts)
    ]
    wanted = sum(w * z for w, z in zip(result.head.weights, logits, strict=True))
    torch.testing.assert_close(predict_logits(result, rows), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{"epochs": 0}, {}])
def test_without_images_or_passes_all_weigh_alike(changes: dict[str, Any]) -> None:
    result = weighed(torch.zeros(0 if not changes else 5, 12), **changes)
    assert result.head.weights == pytest.approx((1 / 3,) * 3, abs=1e-6)


# --- the stage ----------------------------------------------------------------------------------


def test_augmented_features_are_in_view_order_and_new_at_each_call() -> None:
    trunk = build_trunk("fastnet", 8)
    backbone = to_artifact(trunk, "fastnet", 8)
    images = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), dtype=np.uint8)
    for size in (9, 1, 0):
        view = ImageView(images, np.arange(9)[::-1][:size].copy(), "")
        source = AugmentedFeatures(backbone, view, batch_size=4)
        draw = torch.Generator().manual_seed(0)
        plain = source(Augmentation.parse("none"), draw)
        torch.testing.assert_close(plain, extract_features(trunk, view), rtol=1e-4, atol=1e-5)
        crops = [source(Augmentation.parse("crop_flip"), draw) for _ in range(2)]
        assert crops[0].shape == plain.shape
        assert size == 0 or not torch.equal(*crops)


CHANGES = {
    "classify.head": "experts",
    "classify.loss": "sade",
    "classify.training.epochs": 1,
    "rebalance.method": {"expert_weights": {"augmentation": {"crop_flip": {"flip": False}}}},
}


def test_the_stage_gets_images_of_the_pool_for_this_method_alone() -> None:
    experiment = assign(load_experiment("experiments/digits.yaml"), CHANGES)
    step = next(step for step in plan(experiment) if step.stage == "rebalance")
    assert "pool" in step.inputs
    assert "pool_labels" not in step.inputs
    other = assign(experiment, {"rebalance.method": "none"})
    step = next(step for step in plan(other) if step.stage == "rebalance")
    assert "pool" not in step.inputs


def test_the_labels_of_the_pool_do_not_matter() -> None:
    experiment = assign(load_experiment("experiments/digits.yaml"), CHANGES)
    views = build_views(experiment.data)
    labels = views.pool_labels._replace(labels=views.pool_labels.labels[::-1].copy())
    heads = [
        run(experiment, Context(), views=seen)["classifier"].head
        for seen in (views, views._replace(pool_labels=labels))
    ]
    assert heads[0] == heads[1]
    assert len(set(heads[0].weights)) == 3


def test_another_head_is_one_line() -> None:
    experiment = assign(
        load_experiment("experiments/digits.yaml"),
        {**CHANGES, "classify.head": "linear", "classify.loss": "cross_entropy"},
    )
    with pytest.raises((ValueError, ConfigError), match=r"needs the head 'experts'.*'linear'"):
        run(experiment, Context())
