"""The scaled head of a ridge regression beside every correction and calibrator of the shelves."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from search_spaces.long_tail import EXPERT_CORRECTIONS, LINEAR_CORRECTIONS
from trainables.artifacts import Classifier
from trainables.features import head_training as training
from trainables.features.predict import predict_logits
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.augmentations import Augmentation
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.logit_adjustment import LogitAdjustment
from trainables.methods.rebalancers.ridge import Ridge

COUNTS = (200, 90, 40, 18, 8, 4)
CLASSES, WIDTH = len(COUNTS), 10
BALANCED = (20,) * CLASSES
CORRECTIONS = sorted(set(Rebalancer.shelf) - set(EXPERT_CORRECTIONS))
HEADS: dict[str, dict[str, Any]] = {
    "plain": {"balance": "none"},
    "weighted": {"balance": "inverse_frequency"},
    "random": {"balance": "inverse_frequency", "width": 200},
}


@cache
def images(counts: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return features around one direction per class, far from the origin, and labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), WIDTH, generator=draw)
    return 4 + 0.9 * noise + 2.2 * torch.eye(len(counts), WIDTH)[labels], labels


def given() -> dict[str, Any]:
    features, labels = images(COUNTS, 0)
    validation = images(BALANCED, 1)
    return {
        "features": features,
        "labels": labels,
        "class_counts": torch.tensor(COUNTS),
        "validation_features": validation[0],
        "validation_labels": validation[1],
        "pool_features": validation[0],
        "pool_labels": validation[1],
        "report": lambda metrics, step: None,
        "augmented_pool": pool,
    }


def pool(augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    features, _ = images(BALANCED, 2)
    return features + 0.2 * torch.randn(features.shape, generator=generator)


@cache
def head(name: str) -> Classifier:
    zeros = torch.zeros(CLASSES)
    mean = images(COUNTS, 0)[0].mean(0)
    before = Classifier(Head.parse("linear"), WIDTH, {}, zeros, torch.tensor(COUNTS), mean)
    return Ridge(**HEADS[name])(
        classifier=before, features=given()["features"], labels=given()["labels"]
    )


@cache
def trained() -> Classifier:
    """Return a linear head that was trained by gradient."""
    features, labels = images(COUNTS, 0)
    module = training.new_head(
        Head.parse("linear"),
        num_features=WIDTH,
        num_classes=CLASSES,
        generator=torch.Generator().manual_seed(6),
    )
    draws = training.shuffled_draws(
        len(labels), epochs=30, generator=torch.Generator().manual_seed(7)
    )
    training.train_head(
        module,
        features=features,
        labels=labels,
        draws=draws,
        batch_size=16,
        lr=0.05,
        weight_decay=5e-4,
    )
    return head("plain")._replace(state=training.head_state(module))


def balanced_accuracy(logits: Tensor) -> float:
    right = (logits.argmax(1) == images(BALANCED, 3)[1]).double()
    return float(right.mean())


def fresh(classifier: Classifier) -> Tensor:
    return predict_logits(classifier, images(BALANCED, 3)[0])


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_correction_works_on_the_head_or_names_the_head_it_needs(
    name: str, correction: str
) -> None:
    method, available = Rebalancer.parse(correction), {"classifier": head(name), **given()}
    available["generator"] = torch.Generator().manual_seed(4)
    if correction in LINEAR_CORRECTIONS and name == "random":
        with pytest.raises(ValueError, match=r"needs the head 'linear'.*'random_features'"):
            method.call_with(available)
        return
    logits = fresh(method.call_with(available))
    assert logits.isfinite().all()
    available |= {"classifier": trained(), "generator": torch.Generator().manual_seed(4)}
    usual = balanced_accuracy(fresh(method.call_with(available)))
    # a weighted head whose logits are adjusted too is corrected twice: it loses most, a fifth
    assert balanced_accuracy(logits) > 0.8 * min(balanced_accuracy(fresh(head(name))), usual)


@pytest.mark.parametrize("calibrator", sorted(Calibrator.shelf))
@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_calibrator_keeps_the_decisions_and_does_no_harm(name: str, calibrator: str) -> None:
    method = Calibrator.parse(calibrator)
    features, labels = images(BALANCED, 1)
    state = method.fit(logits=predict_logits(head(name), features), labels=labels)
    before = fresh(head(name))
    after = method(logits=before, state=state)
    assert torch.equal(after.argmax(1), before.argmax(1))
    truth, surprise = images(BALANCED, 3)[1], torch.nn.functional.cross_entropy
    assert surprise(after, truth) < 1.05 * surprise(before, truth)


def test_the_prior_can_be_taken_from_scaled_logits_and_ruins_raw_answers() -> None:
    classifier = head("plain")
    accuracy = balanced_accuracy(fresh(classifier))
    scaled = LogitAdjustment()(classifier=classifier, class_counts=torch.tensor(COUNTS))
    assert balanced_accuracy(fresh(scaled)) > accuracy + 0.05
    weight = classifier.state["weight"]
    scale = float(classifier.state["bias"].sum() + (weight @ images(COUNTS, 0)[0].mean(0)).sum())
    raw = scaled._replace(state={key: value / scale for key, value in classifier.state.items()})
    assert balanced_accuracy(fresh(raw)) < accuracy - 0.1


def test_the_softmax_of_left_out_images_is_calibrated_without_a_calibrator() -> None:
    features, labels = images(COUNTS, 5)  # as frequent as in training
    probability = predict_logits(head("plain"), features).softmax(1)
    sure, chosen = probability.max(1)
    right = (chosen == labels).float()
    assert float((sure - right).mean().abs()) < 0.04
    assert float((sure < 0.9).float().mean()) > 0.1
