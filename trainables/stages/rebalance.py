"""Stage `rebalance`: correct the classifier for long-tailed training data, on frozen features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import (
    Backbone,
    Classifier,
    Features,
    ImageView,
    LabelledView,
    OutOfFold,
    PoolLabels,
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import Rebalance
from trainables.features.augmented_features import AugmentedFeatures
from trainables.functional.to_device import to_device
from trainables.inference.whole_fit import fit_with_answers
from trainables.methods.rebalancers import Rebalancer
from trainables.training.loop import num_steps
from trainables.weights.provenance import is_frozen

PROVIDES = {
    "method": frozenset(
        {"classifier", "features", "labels", "groups", "class_counts", "generator"}
        | {"validation_features", "validation_labels", "report", "pool_features", "pool_labels"}
        | {"augmented_pool"}
    ),
}


class Rebalanced(NamedTuple):
    """Artifacts of the stage."""

    classifier: Classifier
    out_of_fold: OutOfFold


def run(
    settings: Rebalance,
    *,
    classifier: Classifier,
    features: Features,
    known_train: LabelledView,
    validation_known: LabelledView,
    backbone: Backbone,
    pool_labels: PoolLabels | None = None,
    pool: ImageView | None = None,
    stream_features: StreamFeatures | None = None,
    context: Context,
) -> Rebalanced:
    """Apply the rebalancer; the trunk does not change.

    Only an ``oracle`` rebalancer, an upper bound that promotion refuses, gets ``pool_labels`` and
    the pool's features. A method that needs augmented images without labels gets the ``pool``.
    Computations run on the context's device; random numbers are the same on all devices.

    Without validation images, answers to the training images out of fold stand in for them, where
    there are any: the trunk did not train on these images, and the rebalancer is fitted to features
    alone.
    """
    on_device = to_device(classifier, context.device)
    available: dict[str, Any] = {
        "classifier": on_device,
        "features": features.known_train,
        "labels": torch.from_numpy(known_train.labels),
        "class_counts": on_device.class_counts,
        "generator": context.generator("rebalance"),
        "validation_features": features.validation_known,
        "validation_labels": torch.from_numpy(validation_known.labels),
        "report": context.report,
    }
    if known_train.groups is not None:
        available["groups"] = torch.from_numpy(known_train.groups)
    if pool_labels is not None and stream_features is not None:
        available["pool_features"] = stream_features.pool
        available["pool_labels"] = torch.from_numpy(pool_labels.labels)
    if pool is not None:
        available["augmented_pool"] = AugmentedFeatures(backbone, pool, device=context.device)
    available = to_device(available, context.device)
    method, stand_in = settings.method, not len(validation_known.labels) and is_frozen(backbone)
    if stand_in:
        rebalanced, logits = fit_with_answers(method, available)
    else:
        rebalanced, logits = method.call_with(available), None
    result = classifier if rebalanced is on_device else to_device(rebalanced, "cpu")
    if rebalanced.state is not on_device.state:
        num_samples = len(known_train.labels) + (0 if pool_labels is None else _known(pool_labels))
        train_cost = _iterations(settings.method, num_samples)
        result = result._replace(train_cost={**classifier.train_cost, **train_cost})
    return Rebalanced(result, _out_of_fold(logits, known_train))


def _out_of_fold(logits: Tensor | None, view: LabelledView) -> OutOfFold:
    """Return the answers in the order of the training view; without any all is empty."""
    if logits is None:
        return OutOfFold(torch.zeros(0, view.num_classes), torch.zeros(0), torch.zeros(0).long())
    groups = np.arange(len(view.labels)) if view.groups is None else view.groups
    return OutOfFold(logits.float().cpu(), torch.zeros(0), torch.from_numpy(groups))


def _known(pool_labels: PoolLabels) -> int:
    """Return the number of images of known classes in the pool."""
    return int(((pool_labels.labels >= 0) & (pool_labels.labels < pool_labels.num_known)).sum())


def _iterations(method: Rebalancer, num_samples: int) -> dict[str, float]:
    """Return the steps and samples of a rebalancer that trains, otherwise an empty dictionary."""
    epochs: int | None = getattr(method, "epochs", None)
    if epochs is None:
        return {}
    drawn = epochs * num_samples
    steps = num_steps(drawn, getattr(method, "batch_size", drawn)) if drawn else 0
    return {"rebalance_steps": float(steps), "rebalance_samples": float(drawn)}
