"""Compute logits and confidences from features, with the same code in stages and in serving."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.artifacts import Classifier, Scorer
from trainables.context import ambient_rng
from trainables.functional.verdict import called_unknown, threshold_of_each


def head_module(classifier: Classifier) -> torch.nn.Module:
    """Build the classifier's head module in evaluation mode, on the weights' device."""
    with ambient_rng(torch.Generator()):  # the drawn weights are overwritten
        module: torch.nn.Module = classifier.head.build(
            classifier.num_features, len(classifier.class_counts)
        )
    module.to(classifier.logit_offset.device).load_state_dict(classifier.state)
    module.eval()
    return module


@torch.no_grad()
def predict_logits(classifier: Classifier, features: Tensor) -> Tensor:
    """Return ``head(features) + logit_offset``, float32 ``[N, C]``."""
    logits: Tensor = head_module(classifier)(features)
    return logits.float() + classifier.logit_offset


@torch.no_grad()
def calibrated(scorer: Scorer, logits: Tensor) -> Tensor:
    """Return calibrated logits ``[N, C]``, whose softmax is the predicted probability."""
    result: Tensor = scorer.calibrator(logits=logits, state=scorer.calibrator_state)
    return result


@torch.no_grad()
def confidence(scorer: Scorer, *, features: Tensor, logits: Tensor, class_counts: Tensor) -> Tensor:
    """Return ``confidence [N]``; higher values indicate a known class.

    Args:
        scorer: The fitted scorer.
        features: ``[N, D]``.
        logits: Calibrated logits ``[N, C]``.
        class_counts: ``[C]``.
    """
    available = {
        "features": features,
        "logits": logits,
        "class_counts": class_counts,
        "state": scorer.score_state,
    }
    result: Tensor = scorer.score.call_with(available)
    return result


def unknown(scorer: Scorer, *, confidence: Tensor, logits: Tensor) -> Tensor:
    """Return which images ``[N]`` bool a scorer calls unknown, by confidence and logits."""
    predicted = logits.argmax(dim=1)
    level = threshold_of_each(scorer.threshold, scorer.class_thresholds, predicted)
    return called_unknown(confidence, level)
