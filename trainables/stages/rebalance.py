"""Stage `rebalance`: correct the classifier for long-tailed training data, on frozen features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from trainables.artifacts import (
    Backbone,
    Classifier,
    Features,
    ImageView,
    LabelledView,
    PoolLabels,
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import Rebalance
from trainables.features.augmented_features import AugmentedFeatures
from trainables.functional.to_device import to_device
from trainables.methods.rebalancers import Rebalancer
from trainables.training.loop import num_steps

PROVIDES = {
    "method": frozenset(
        {"classifier", "features", "labels", "groups", "class_counts", "generator"}
        | {"validation_features", "validation_labels", "report", "pool_features", "pool_labels"}
        | {"augmented_pool"}
    ),
}


class Rebalanced(NamedTuple):
    """Artifact of the stage."""

    classifier: Classifier


def run(
    settings: Rebalance,
    *,
    classifier: Classifier,
    features: Features,
    known_train: LabelledView,
    validation_known: LabelledView,
    pool_labels: PoolLabels | None = None,
    backbone: Backbone | None = None,
    pool: ImageView | None = None,
    stream_features: StreamFeatures | None = None,
    context: Context,
) -> Rebalanced:
    """Apply the rebalancer; the trunk does not change.

    Only an ``oracle`` rebalancer, an upper bound that promotion refuses, gets ``pool_labels`` and
    the pool's features. A method that needs augmented images without labels gets ``backbone`` and
    ``pool``. Computations run on the context's device; random numbers are the same on all devices.
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
    if backbone is not None and pool is not None:
        available["augmented_pool"] = AugmentedFeatures(backbone, pool, device=context.device)
    rebalanced: Classifier = settings.method.call_with(to_device(available, context.device))
    result = classifier if rebalanced is on_device else to_device(rebalanced, "cpu")
    if rebalanced.state is not on_device.state:
        num_samples = len(known_train.labels) + (0 if pool_labels is None else _known(pool_labels))
        train_cost = _iterations(settings.method, num_samples)
        result = result._replace(train_cost={**classifier.train_cost, **train_cost})
    return Rebalanced(result)


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
