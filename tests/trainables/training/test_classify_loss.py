"""The loss of one step equals what it is made of, written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainables.artifacts import LabelledView
from trainables.context import Context, ambient_rng
from trainables.data.loader import Batch
from trainables.experiment import Classify
from trainables.models.backbone import build_trunk, to_artifact
from trainables.settings import build
from trainables.training.classify_loss import MEAN_MOMENTUM, StepLoss
from trainables.training.classify_model import ClassifyModel, build_model, predict_view
from trainables.training.self_training import Lesson
from trainables.training.step_batches import StepBatches

SIZE, CLASSES = 8, 3


@pytest.fixture
def view() -> LabelledView:
    images = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.array([0] * 7 + [1] * 4 + [2], dtype=np.int64)
    return LabelledView(images, np.arange(12), labels, CLASSES, "view")


def step_of(view: LabelledView, tree: dict[str, Any]) -> tuple[ClassifyModel, StepLoss, Batch]:
    """Return a model whose trunk stands still, its step loss, and a batch of images."""
    settings = build(Classify, {"augmentation": "none", **tree})
    trunk = build_trunk("fastnet", SIZE, generator=torch.Generator().manual_seed(1))
    context = Context()
    model = build_model(settings, to_artifact(trunk, "fastnet", SIZE), view, context)
    model.trunk.eval()
    batches = StepBatches(settings, Lesson(view), model.views, context)
    loss = StepLoss(model, settings, batches, torch.contiguous_format, context)
    batch = next(iter(batches.epoch(0)))[0]
    return model, loss, batch


def test_a_plain_step_is_the_loss_of_the_heads_logits(view: LabelledView) -> None:
    model, loss, batch = step_of(view, {})
    features = model.trunk(batch.images)
    expected = functional.cross_entropy(model.head(features), batch.labels)
    torch.testing.assert_close(loss((batch, None), 0.0), expected)
    # as in the released code of TDE, which uses the direction alone: a sum, not an average
    mean = features.detach().mean(0)
    torch.testing.assert_close(model.mean, mean)
    loss((batch, None), 0.0)
    torch.testing.assert_close(model.mean, (1 + MEAN_MOMENTUM) * mean)


def test_a_step_hands_the_class_counts_of_the_whole_view_to_the_loss(view: LabelledView) -> None:
    model, loss, batch = step_of(view, {"loss": "balanced_softmax"})
    logits = model.head(model.trunk(batch.images)) + torch.tensor([7.0, 4.0, 1.0]).log()
    expected = functional.cross_entropy(logits, batch.labels)
    torch.testing.assert_close(loss((batch, None), 0.0), expected)


def test_two_batches_are_one_weighted_sum(view: LabelledView) -> None:
    tree = {"branches": "bbn", "training": {"batch_size": 6}}
    model, loss, _ = step_of(view, tree)
    first, second = next(iter(loss.batches.epoch(0)))
    assert second is not None
    joined = loss.settings.branches.call_with(
        {
            "features": model.trunk.forward_branch(first.images, 0),
            "labels": first.labels,
            "second_features": model.trunk.forward_branch(second.images, 1),
            "second_labels": second.labels,
            "progress": 0.5,
        }
    )
    assert 0 < joined.share < 1
    logits = model.head(joined.features)
    parts = [functional.cross_entropy(logits, labels) for labels in (first.labels, second.labels)]
    expected = joined.share * parts[0] + (1 - joined.share) * parts[1]
    torch.testing.assert_close(loss((first, second), 0.5), expected)


def test_dropout_hides_features_from_the_head_alone(view: LabelledView) -> None:
    model, loss, batch = step_of(view, {"dropout": 0.5})
    features = model.trunk(batch.images)
    with ambient_rng(torch.Generator().manual_seed(3)):
        seen = functional.dropout(features, 0.5)
    with ambient_rng(torch.Generator().manual_seed(3)):
        found = loss((batch, None), 0.0)
    assert 0.3 < (seen[features > 0] == 0).float().mean() < 0.7
    torch.testing.assert_close(found, functional.cross_entropy(model.head(seen), batch.labels))
    torch.testing.assert_close(model.mean, features.detach().mean(0))
    quiet = predict_view(model, view, torch.device("cpu"))
    assert torch.equal(quiet, predict_view(model, view, torch.device("cpu")))


def test_right_answers_are_counted_per_class_where_labels_are_whole(view: LabelledView) -> None:
    model, loss, batch = step_of(view, {})
    assert model.train_accuracy() is None
    loss((batch, None), 0.0)
    loss((batch, None), 0.0)
    drawn = torch.bincount(batch.labels, minlength=CLASSES)
    assert model.hits[1].tolist() == (2 * drawn).tolist()
    right = (model.head(model.trunk(batch.images)).argmax(1) == batch.labels).float()
    expected = [float(right[batch.labels == c].mean()) for c in range(CLASSES)]
    assert model.train_accuracy() == pytest.approx(sum(expected) / CLASSES)
    model.forget_hits()
    assert model.train_accuracy() is None
    mixed, loss, batch = step_of(view, {"mixing": "mixup"})
    loss((batch, None), 0.0)
    assert mixed.train_accuracy() is None
