"""Stage `rescore`: calibrator, confidence score and threshold of the updated classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import (
    Backbone,
    Classifier,
    Features,
    ImageView,
    LabelledView,
    PseudoLabels,
    Scorer,
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import ScoreSettings
from trainables.inference.scoring import PROVIDES, Samples, fit_scorer
from trainables.models.backbone import extract_features, from_artifact, same_trunk

__all__ = ["PROVIDES", "Rescored", "run"]


class Rescored(NamedTuple):
    """Artifact of the stage."""

    updated_scorer: Scorer


def run(
    settings: ScoreSettings,
    *,
    scorer: Scorer,
    backbone: Backbone,
    updated_backbone: Backbone,
    updated_classifier: Classifier,
    features: Features,
    stream_features: StreamFeatures,
    known_train: LabelledView,
    validation_known: LabelledView,
    validation_novel: LabelledView,
    pool: ImageView,
    pseudo_labels: PseudoLabels,
    context: Context,
) -> Rescored:
    """Fit the methods of the stage ``score`` anew for the classifier with the new classes.

    Its training samples are the known ones and the believed pseudo-labels. Calibrator and
    threshold see validation samples of known classes; the threshold also those of classes that
    neither classifier learned, or classes left out in turn. Without new classes the classifier is
    the same, and so is its scorer.
    """
    if pseudo_labels.num_new_clusters == 0:
        return Rescored(scorer)
    believed = pseudo_labels.weights > 0
    positions = pseudo_labels.positions[believed]
    if same_trunk(backbone, updated_backbone):
        known, seen = features
        new, stream = stream_features
    else:
        views = (known_train, validation_known, validation_novel, pool)
        known, seen, new, stream = _features(updated_backbone, views, context)
    labels = [torch.from_numpy(known_train.labels), pseudo_labels.labels[believed]]
    return Rescored(
        fit_scorer(
            (settings.calibrator, settings.method, settings.threshold),
            updated_classifier,
            train=Samples(torch.cat([known, stream[positions]]), torch.cat(labels)),
            validation=Samples(seen, torch.from_numpy(validation_known.labels)),
            unknown=new,
            prior=_grown(scorer.prior, updated_classifier),
            device=context.device,
        )
    )


def _grown(prior: Tensor | None, classifier: Classifier) -> Tensor | None:
    """Return the expected share of each class; new ones come as often as the rarest known one."""
    if prior is None:
        return None
    added = len(classifier.class_counts) - len(prior)
    grown = torch.cat([prior, prior.min().repeat(added)])
    return grown / grown.sum()


def _features(
    backbone: Backbone, views: tuple[LabelledView | ImageView, ...], context: Context
) -> list[Tensor]:
    """Return the features of views under the updated trunk."""
    trunk = from_artifact(backbone).to(context.device)
    return [extract_features(trunk, view, device=context.device).cpu() for view in views]
