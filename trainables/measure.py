"""A loaded model measured on held-out views, for a comparison of two models on the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import LabelledView
from trainables.data import Views
from trainables.experiment import Evaluate
from trainables.inference import Model, Outputs
from trainables.methods.metrics import Metric


def measure(
    model: Model,
    views: Views,
    settings: Evaluate,
    *,
    class_names: Sequence[str],
    class_counts: Sequence[int],
) -> dict[str, float]:
    """Return the metrics of ``evaluate`` that need held-out images alone, as ``evaluate/...``.

    Accuracy by band, calibration, novelty and forgetting: the same numbers as the stage gives.

    Args:
        model: The model.
        views: Their held-out views are read.
        settings: Bands and bins.
        class_names: Known classes in the order of the views' labels; the model must know the same
            ones, in any order.
        class_counts: Training images per class, in that order: they make the bands.

    Raises:
        ValueError: The model knows other classes.
    """
    order = class_order(model, class_names)
    held = (views.held_out_known, views.held_out_novel)
    parts = [_outputs(model, view) for view in held]
    labels = torch.cat([torch.from_numpy(view.labels) for view in held])
    known = torch.arange(len(labels)) < len(views.held_out_known.labels)
    logits = torch.cat([p.logits for p in parts])[:, order]
    sureness = torch.cat([p.confidence for p in parts])
    available: dict[str, Any] = {
        "class_counts": torch.tensor(class_counts),
        "many_above": settings.many_above,
        "few_below": settings.few_below,
    }
    on_known = {**available, "logits": logits[known], "labels": labels[known]}
    everything = {
        **available,
        "confidence": sureness,
        "known": known,
        "labels": labels,
        "logits": logits,
        "predictions": logits.argmax(1),
        "threshold": model.scorer.threshold,
    }
    calibration = Metric.lookup("calibration").model_validate({"bins": settings.bins})
    values = {
        **Metric.lookup("accuracy")().supplied(on_known),
        **calibration.supplied(on_known),
        **Metric.lookup("open_set")().supplied(everything),
        "update/forgetting": _forgetting(parts[0].updated, order, on_known),
    }
    return {f"evaluate/{k}": float(v) for k, v in values.items() if float(v) == float(v)}


def class_order(model: Model, class_names: Sequence[str]) -> list[int]:
    """Return where each class is among the model's known outputs.

    Raises:
        ValueError: The model knows other classes.
    """
    own = model.card.class_names[: model.card.num_known]
    if sorted(own) != sorted(class_names) or len(set(own)) != len(own):
        raise ValueError(f"the model knows the classes {list(own)}; expected {list(class_names)}")
    return [own.index(name) for name in class_names]


def _outputs(model: Model, view: LabelledView) -> Outputs:
    size = model.card.image_size
    if view.images.shape[1:3] == (size, size):
        return model.outputs(view)
    images = model.fit(view.images[view.indices])
    return model.outputs(view._replace(images=images, indices=np.arange(len(images))))


def _forgetting(updated: Tensor, order: list[int], before: dict[str, Any]) -> float:
    """Return the fall of the mean accuracy over known classes; a discovered class is no answer."""
    labels = before["labels"]
    place = torch.full((updated.shape[1],), -1, dtype=torch.int64)
    place[order] = torch.arange(len(order))
    after = (place[updated.argmax(1)] == labels).float()
    first = (before["logits"].argmax(1) == labels).float()
    falls = [(first - after)[labels == c].mean() for c in labels.unique()]
    return float(torch.stack(falls).mean())
