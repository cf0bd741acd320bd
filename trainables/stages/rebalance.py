"""Stage 4: correct the classifier for the long tail, on frozen features."""

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
)
from trainables.augmented_features import AugmentedFeatures
from trainables.context import Context
from trainables.experiment import Rebalance
from trainables.loop import num_steps
from trainables.methods.rebalancers import Rebalancer
from trainables.placement import placed

PROVIDES = {
    "method": frozenset(
        {"classifier", "features", "labels", "class_counts", "generator"}
        | {"validation_features", "validation_labels", "report", "pool_features", "pool_labels"}
        | {"augmented_pool"}
    ),
}


class Rebalanced(NamedTuple):
    """What the stage gives."""

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
    context: Context,
) -> Rebalanced:
    """Apply the rebalancer; the trunk is not touched (most often it is not even an input).

    ``pool_labels`` is handed over to an ``oracle`` only, an upper bound that promotion refuses;
    ``backbone`` and ``pool`` to a method that looks at augmented images without labels. What is
    computed is computed on the context's device, from draws that are the same on all devices.
    """
    there = placed(classifier, context.device)
    available: dict[str, Any] = {
        "classifier": there,
        "features": features.known_train,
        "labels": torch.from_numpy(known_train.labels),
        "class_counts": there.class_counts,
        "generator": context.generator("rebalance"),
        "validation_features": features.validation_known,
        "validation_labels": torch.from_numpy(validation_known.labels),
        "report": context.report,
    }
    if pool_labels is not None:
        available["pool_features"] = features.pool
        available["pool_labels"] = torch.from_numpy(pool_labels.labels)
    if backbone is not None and pool is not None:
        available["augmented_pool"] = AugmentedFeatures(backbone, pool, device=context.device)
    found: Classifier = settings.method.supplied(placed(available, context.device))
    result = classifier if found is there else placed(found, "cpu")
    if found.state is not there.state:
        seen = len(known_train.labels) + (0 if pool_labels is None else _known(pool_labels))
        spent = _iterations(settings.method, seen)
        result = result._replace(training={**classifier.training, **spent})
    return Rebalanced(result)


def _known(pool_labels: PoolLabels) -> int:
    """Return how many images of known classes are in the pool."""
    return int(((pool_labels.labels >= 0) & (pool_labels.labels < pool_labels.num_known)).sum())


def _iterations(method: Rebalancer, num_samples: int) -> dict[str, float]:
    """Return the steps and draws of a rebalancer that trains; nothing for one that does not."""
    epochs: int | None = getattr(method, "epochs", None)
    if epochs is None:
        return {}
    drawn = epochs * num_samples
    steps = num_steps(drawn, getattr(method, "batch_size", drawn)) if drawn else 0
    return {"rebalance_steps": float(steps), "rebalance_samples": float(drawn)}
