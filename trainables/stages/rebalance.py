"""Stage 4: correct the classifier for the long tail, on frozen features."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainables.artifacts import Classifier, Features, LabelledView
from trainables.context import Context
from trainables.experiment import Rebalance

PROVIDES = {
    "method": frozenset({"classifier", "features", "labels", "class_counts", "generator"}),
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
    context: Context,
) -> Rebalanced:
    """Apply the rebalancer; the trunk is not touched (it is not even an input)."""
    available = {
        "classifier": classifier,
        "features": features.known_train,
        "labels": torch.from_numpy(known_train.labels),
        "class_counts": classifier.class_counts,
        "generator": context.generator("rebalance"),
    }
    return Rebalanced(settings.method.supplied(available))
