"""How strange an image looks: its confidence beside those of known images.

A confidence has the scale of its score, which nobody can read. The share of known images that look
as strange can be read, and needs no assumption about the scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Backbone, Classifier, OutOfFold, Scorer
from trainables.features import predict
from trainables.models.backbone import extract_features, from_artifact, same_trunk


class Reference(NamedTuple):
    """Answers of a model to known images that its head and score were not fitted to.

    ``confidence [N]`` float32 is of the model's scorer, ``predicted [N]`` int64 the class of the
    largest output. The images are those of the validation part or, where there is none, training
    images as they are answered by fits without their group.
    """

    confidence: Tensor
    predicted: Tensor


class Strangeness(NamedTuple):
    """How many known images look at least as strange as an image, of how many.

    Example:
        >>> Strangeness(as_strange=3, of=900).share
        0.0033333333333333335
    """

    as_strange: int
    of: int

    @property
    def share(self) -> float:
        """The share of known images that look as strange, in [0, 1]."""
        return self.as_strange / self.of


def strangeness(confidence: Tensor, known: Tensor) -> list[Strangeness]:
    """Count for each image the known images whose confidence is at most its own.

    With one more in numerator and denominator the share is the conformal p-value of the hypothesis
    that the image is a known one (Bates, Candès, Lei, Romano, Sesia 2023, "Testing for outliers
    with conformal p-values").

    Args:
        confidence: Confidence of N images ``[N]``.
        known: Confidence of M known images ``[M]``, ascending; M >= 1.

    Example:
        >>> strangeness(torch.tensor([-1.0, 0.5]), torch.tensor([-2.0, -1.0, 0.0, 1.0]))
        [Strangeness(as_strange=2, of=4), Strangeness(as_strange=3, of=4)]
    """
    counts = torch.searchsorted(known, confidence, right=True)
    return [Strangeness(count, len(known)) for count in counts.tolist()]


def reference_of(artifacts: dict[str, Any], names: dict[str, str]) -> Reference | None:
    """Return the reference of one of a recipe's models, from the artifacts of its run.

    Args:
        artifacts: Views and artifacts by name, see `trainables.pipeline.run`.
        names: Names of the model's ``backbone``, ``classifier`` and ``scorer`` among them.

    Returns:
        ``None`` if there are no such images: no validation part, and no answers without the
        image's group of this very classifier.
    """
    classifier, scorer = artifacts[names["classifier"]], artifacts[names["scorer"]]
    if len(artifacts["validation_known"].labels):
        return _answers(classifier, scorer, _features(artifacts, artifacts[names["backbone"]]))
    held: OutOfFold | None = artifacts.get("out_of_fold")
    outputs = len(classifier.class_counts)
    if held is None or not len(held.confidence) or held.logits.shape[1] != outputs:
        return None
    return Reference(held.confidence.float(), predict.calibrated(scorer, held.logits).argmax(1))


def _features(artifacts: dict[str, Any], backbone: Backbone) -> Tensor:
    """Return validation features under a trunk; those of the first trunk are stored."""
    if same_trunk(artifacts["backbone"], backbone):
        stored: Tensor = artifacts["features"].validation_known
        return stored
    return extract_features(from_artifact(backbone), artifacts["validation_known"]).cpu()


def _answers(classifier: Classifier, scorer: Scorer, features: Tensor) -> Reference:
    logits = predict.calibrated(scorer, predict.predict_logits(classifier, features))
    found = predict.confidence(
        scorer, features=features, logits=logits, class_counts=classifier.class_counts
    )
    return Reference(found.float(), logits.argmax(1))
