"""Evaluate an exported model on held-out data (used by promotion)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import LabelledView
from trainables.data.source_cache import Integers
from trainables.data.views import Views
from trainables.experiment import Evaluate
from trainables.functional.verdict import threshold_of_each
from trainables.inference.judge import UNKNOWN, ModelAnswers, Truth, judge
from trainables.inference.model import Model, Outputs

TOGETHER = 512  # images that are resized at once


def measure(
    model: Model,
    views: Views,
    settings: Evaluate,
    *,
    class_names: Sequence[str],
    class_counts: Sequence[int],
) -> dict[str, float]:
    """Return the metrics by which promotion compares models, on another test set.

    They are named ``test/...`` and are those that `trainables.inference.judge.judge` returns,
    equal to the metrics ``evaluate/first/...`` or ``evaluate/updated/...`` of the model's own
    evaluation on the same images.

    Args:
        model: The model.
        views: Views, of which the held-out ones are used.
        settings: Bands and bins.
        class_names: Known classes in the order of the views' labels; the model must have the same
            known classes, in any order.
        class_counts: Training images per class in the order of ``class_names``; they define the
            bands.

    Raises:
        ValueError: The model has other known classes.
    """
    held = (views.held_out_known, views.held_out_novel, views.held_out_unknown)
    parts = [_outputs(model, view) for view in held]
    labels = [torch.from_numpy(view.labels) for view in held[:2]]
    logits = torch.cat([p.logits for p in parts])
    scorer = model.scorer
    answers = ModelAnswers(
        logits=logits,
        confidence=torch.cat([p.confidence for p in parts]),
        threshold=threshold_of_each(scorer.threshold, scorer.class_thresholds, logits.argmax(1)),
        classes=_classes(model, class_names, views.summary["novel_class_names"]),
    )
    truth = Truth(
        labels=torch.cat([*labels, torch.full((len(held[2].labels),), UNKNOWN)]),
        class_counts=torch.tensor(class_counts),
        many_above=settings.many_above,
        few_below=settings.few_below,
        bins=settings.bins,
    )
    return {f"test/{name}": value for name, value in judge(answers, truth).items()}


def _classes(model: Model, known: Sequence[str], novel: Sequence[str]) -> Tensor:
    """Return the class of each output of the model, -1 for a discovered class without a match."""
    order = class_order(model, known)
    found = torch.full((len(model.card.class_names),), -1, dtype=torch.int64)
    found[order] = torch.arange(len(order))
    for position, name in enumerate(model.card.matched, start=model.card.num_known):
        if name in novel:
            found[position] = len(known) + list(novel).index(name)
    return found


def class_order(model: Model, class_names: Sequence[str]) -> list[int]:
    """Return the index of each class among the model's known outputs.

    Raises:
        ValueError: The model has other known classes.
    """
    known_names = model.card.class_names[: model.card.num_known]
    if sorted(known_names) != sorted(class_names) or len(set(known_names)) != len(known_names):
        raise ValueError(
            f"the model has the classes {list(known_names)}; expected {list(class_names)}"
        )
    return [known_names.index(name) for name in class_names]


def _outputs(model: Model, view: LabelledView) -> Outputs:
    size = model.card.image_size
    if view.images.shape[1:3] == (size, size):
        return model.outputs(view)
    parts = [
        model.outputs(_fitted(model, view, view.indices[start : start + TOGETHER]))
        for start in range(0, max(1, len(view.indices)), TOGETHER)
    ]
    return Outputs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _fitted(model: Model, view: LabelledView, indices: Integers) -> LabelledView:
    """Return some images of a view in the model's size."""
    images = model.fit(view.images[indices])
    return view._replace(images=images, indices=np.arange(len(images)))
