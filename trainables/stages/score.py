"""Stage `score`: calibrator, confidence score and threshold; pool samples called unknown."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainables.artifacts import (
    Classifier,
    Features,
    LabelledView,
    OutOfFold,
    PoolSelection,
    Scorer,
    StreamFeatures,
)
from trainables.closed_form.statistics import samples
from trainables.context import Context
from trainables.experiment import ScoreSettings
from trainables.features.predict import calibrated, confidence, predict_logits, unknown
from trainables.functional.to_device import to_device
from trainables.inference.expected_prior import expected_prior
from trainables.inference.scoring import PROVIDES, Samples, fit_out_of_fold, fit_scorer

__all__ = ["PROVIDES", "Scored", "run"]


class Scored(NamedTuple):
    """Artifacts of the stage."""

    scorer: Scorer
    pool_selection: PoolSelection
    out_of_fold: OutOfFold


def run(
    settings: ScoreSettings,
    *,
    classifier: Classifier,
    features: Features,
    stream_features: StreamFeatures,
    known_train: LabelledView,
    validation_known: LabelledView,
    out_of_fold: OutOfFold,
    context: Context,
) -> Scored:
    """Fit calibrator, score and threshold; call pool samples below the threshold unknown.

    The calibrator is fitted on known validation samples, the score on training features, the
    threshold on known validation samples and on images of new classes. If no new class is set aside
    for it, known classes are left out in turn (`trainables.inference.scoring`). Pool labels are not
    used.

    Without validation images, answers to training images out of fold stand in for them, where there
    are any; they come back with their confidences.
    """
    methods = settings.calibrator, settings.method, settings.threshold
    labels = torch.from_numpy(known_train.labels)
    prior = expected_prior(settings.prior, classifier.class_counts, known_train.class_names)
    if len(out_of_fold.logits):
        data = samples(features.known_train, labels, groups=out_of_fold.groups)
        scorer, out_of_fold = fit_out_of_fold(
            methods,
            classifier,
            train=data,
            answers=out_of_fold,
            generator=context.generator("score", "folds"),
            prior=prior,
            device=context.device,
        )
    else:
        validation = torch.from_numpy(validation_known.labels)
        scorer = fit_scorer(
            methods,
            classifier,
            train=Samples(features.known_train, labels),
            validation=Samples(features.validation_known, validation),
            unknown=stream_features.validation_novel,
            prior=prior,
            device=context.device,
        )
    fitted, model = to_device(scorer, context.device), to_device(classifier, context.device)
    pool = stream_features.pool.to(context.device)
    logits = calibrated(fitted, predict_logits(model, pool))
    sure = confidence(fitted, features=pool, logits=logits, class_counts=model.class_counts)
    chosen = unknown(scorer, confidence=sure.cpu(), logits=logits.cpu()).nonzero().flatten()
    return Scored(scorer, PoolSelection(chosen), out_of_fold)
