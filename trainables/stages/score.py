"""Stage `score`: calibrator, confidence score and threshold; pool samples called unknown."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainables.artifacts import (
    Classifier,
    Features,
    LabelledView,
    PoolSelection,
    Scorer,
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import ScoreSettings
from trainables.features.predict import calibrated, confidence, predict_logits
from trainables.functional.to_device import to_device
from trainables.inference.scoring import PROVIDES, Samples, fit_scorer

__all__ = ["PROVIDES", "Scored", "run"]


class Scored(NamedTuple):
    """Artifacts of the stage."""

    scorer: Scorer
    pool_selection: PoolSelection


def run(
    settings: ScoreSettings,
    *,
    classifier: Classifier,
    features: Features,
    stream_features: StreamFeatures,
    known_train: LabelledView,
    validation_known: LabelledView,
    context: Context,
) -> Scored:
    """Fit calibrator, score and threshold; call pool samples below the threshold unknown.

    The calibrator is fitted on known validation samples, the score on training features, the
    threshold on known validation samples and on images of new classes. If no new class is set aside
    for it, known classes are left out in turn (`trainables.inference.scoring`). Pool labels are not
    used.
    """
    scorer = fit_scorer(
        (settings.calibrator, settings.method, settings.threshold),
        classifier,
        train=Samples(features.known_train, torch.from_numpy(known_train.labels)),
        validation=Samples(features.validation_known, torch.from_numpy(validation_known.labels)),
        unknown=stream_features.validation_novel,
        device=context.device,
    )
    fitted, model = to_device(scorer, context.device), to_device(classifier, context.device)
    pool = stream_features.pool.to(context.device)
    logits = calibrated(fitted, predict_logits(model, pool))
    sure = confidence(fitted, features=pool, logits=logits, class_counts=model.class_counts)
    unknown = (sure.cpu() < scorer.threshold).nonzero().flatten()
    return Scored(scorer, PoolSelection(unknown))
