"""Stage 5: how sure the model is, calibrated, and which pool samples it does not know."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainables.artifacts import Classifier, Features, LabelledView, PoolSelection, Scorer
from trainables.context import Context
from trainables.experiment import Screen
from trainables.placement import placed
from trainables.predict import calibrated, confidence, predict_logits

PROVIDES = {
    "method": frozenset({"logits", "features", "class_counts", "state"}),
    "threshold": frozenset({"confidence", "known"}),
}


class Scored(NamedTuple):
    """What the stage gives."""

    scorer: Scorer
    pool_selection: PoolSelection


def run(
    settings: Screen,
    *,
    classifier: Classifier,
    features: Features,
    known_train: LabelledView,
    validation_known: LabelledView,
    context: Context,
) -> Scored:
    """Fit calibrator, score and threshold; call pool samples below the threshold unknown.

    The calibrator is fitted on the known validation slice, the score on training features, the
    threshold on known and novel validation samples. No pool label is involved. Logits and scores
    are computed on the context's device; calibrator and threshold, a few numbers, on the CPU.
    """
    there = context.device
    classifier, features = placed(classifier, there), placed(features, there)
    counts = classifier.class_counts
    calibrator_state = settings.calibrator.fit(
        logits=predict_logits(classifier, features.validation_known).cpu(),
        labels=torch.from_numpy(validation_known.labels),
    )
    state = placed(calibrator_state, there)
    scorer = Scorer(settings.calibrator, state, settings.method, {}, float("-inf"))
    if hasattr(settings.method, "fit"):
        available = {
            "features": features.known_train,
            "logits": calibrated(scorer, predict_logits(classifier, features.known_train)),
            "labels": torch.from_numpy(known_train.labels).to(there),
            "class_counts": counts,
        }
        fitted = placed(settings.method.supplied(available, "fit"), there)
        scorer = scorer._replace(score_state=fitted)

    def sureness(view: torch.Tensor) -> torch.Tensor:
        logits = calibrated(scorer, predict_logits(classifier, view))
        return confidence(scorer, features=view, logits=logits, class_counts=counts).cpu()

    known, novel = sureness(features.validation_known), sureness(features.validation_novel)
    threshold = settings.threshold(
        confidence=torch.cat([known, novel]),
        known=torch.cat([torch.ones(len(known)), torch.zeros(len(novel))]).bool(),
    )
    scorer = scorer._replace(threshold=float(threshold))
    unknown = (sureness(features.pool) < scorer.threshold).nonzero().flatten()
    return Scored(placed(scorer, "cpu"), PoolSelection(unknown))
