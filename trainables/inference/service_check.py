"""No model is served that calls every image known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trainables.artifacts import Scorer
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.weights.provenance import is_frozen


def check_thresholds(
    experiment: Experiment, scorers: Iterable[Scorer], artifacts: Mapping[str, Any]
) -> None:
    """Refuse a threshold of ``-inf``, with which no image would ever be called unknown.

    Args:
        experiment: A recipe in world `service`.
        scorers: The scorers that it gave.
        artifacts: What the threshold was fitted on: ``validation_known``, ``out_of_fold``, and the
            ``backbone``.

    Raises:
        ConfigError: One line that says why there is no threshold, and the remedy.
    """
    if all(scorer.threshold > -math.inf for scorer in scorers):
        return
    if len(artifacts["validation_known"].labels) or len(artifacts["out_of_fold"].logits):
        raise ConfigError(
            f"score.threshold: '{experiment.score.threshold.name}' finds no threshold on these "
            "images, so no image would ever be called unknown; in world service take false_alarm "
            "with a level that so many images can tell (0.05 needs 19), or add images"
        )
    raise ConfigError(
        "data.world: service fits its threshold on validation images or on answers out of fold, "
        f"and there are neither: {_why(experiment, artifacts)}"
    )


def _why(experiment: Experiment, artifacts: Mapping[str, Any]) -> str:
    """Say why training images have no answers out of fold, and what to do."""
    if is_frozen(artifacts["backbone"]):
        return (
            f"rebalance.method '{experiment.rebalance.method.name}' starts from a classifier that "
            "was trained on all images; choose one that is fitted to features alone, such as ridge "
            "or lda"
        )
    return (
        "the trunk was trained on these images; set data.validation_per_class above 0, or take "
        "pretrained weights and classify.trunk=frozen"
    )
