"""Judge a model by its answers: a class, or that the image's class is unknown.

The stage ``evaluate`` judges the model before and after the update in this way, and promotion
judges registered models again on another test set.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import OutOfFold, Scorer
from trainables.features.predict import calibrated
from trainables.functional.verdict import called_unknown, threshold_of_each
from trainables.inference.expected_prior import weights_of
from trainables.methods.metrics.accuracy import Accuracy, size_bands
from trainables.methods.metrics.calibration import Calibration
from trainables.methods.metrics.open_set import OpenSet

UNKNOWN, NO_CLASS = -1, -2
NOVELTY = ("novelty/auroc", "novelty/recall")
# what answers to training images out of fold can tell of a model; new classes they can't
OUT_OF_FOLD = (
    *(f"accuracy{part}" for part in ("", "/balanced", "/expected", "/many", "/medium", "/few")),
    "calibration/ece",
    *(f"novelty/false_alarm{part}" for part in ("", "/many", "/medium", "/few")),
)


class ModelAnswers(NamedTuple):
    """Outputs of a model for N images.

    ``logits [N, C + K]`` are calibrated; ``classes [C + K]`` is the class of each output, -1 for a
    cluster without a class. An image with ``confidence < threshold`` is called unknown; the
    threshold is that of all images, or of each ``[N]``.
    """

    logits: Tensor
    confidence: Tensor
    threshold: float | Tensor
    classes: Tensor

    @property
    def predicted(self) -> Tensor:
        """Class of the largest logit ``[N]``, -1 for a cluster without a class."""
        return self.classes[self.logits.argmax(1)]

    @property
    def unknown(self) -> Tensor:
        """Which images are called unknown ``[N]`` bool."""
        return called_unknown(self.confidence, self.threshold)


class Truth(NamedTuple):
    """True labels and bands.

    ``labels [N]``: known classes ``0..C-1``, new classes from C on, -1 for classes that no model
    learns. ``class_counts [C]`` and the bounds define the bands, see `Accuracy`. ``prior [C]`` is
    the share of each known class among the images that are expected; ``None``: as they come.
    """

    labels: Tensor
    class_counts: Tensor
    many_above: int
    few_below: int
    bins: int
    prior: Tensor | None = None


def right_answers(answers: ModelAnswers, labels: Tensor, num_known: int) -> Tensor:
    """Return which answers are right ``[N]`` bool.

    The right answer to an image of a known class, or of a new class that the model has learned, is
    this class; to any other image, "unknown". A model without the new class is therefore right when
    it calls the image unknown, and wrong when it calls an image of a known class unknown.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> sure = torch.tensor([0.9, 0.1, 0.9, 0.1])
        >>> answers = ModelAnswers(logits, sure, 0.5, torch.tensor([0, 1]))
        >>> right_answers(answers, torch.tensor([0, 0, 2, 2]), num_known=2).tolist()
        [True, False, False, True]
    """
    learned = torch.isin(labels, answers.classes) | (labels < num_known)
    expected = torch.where(learned & (labels >= 0), labels, UNKNOWN)
    predicted = torch.where(answers.predicted < 0, NO_CLASS, answers.predicted)
    return torch.where(answers.unknown, UNKNOWN, predicted) == expected


def judge(answers: ModelAnswers, truth: Truth) -> dict[str, float]:
    """Return the metrics of a model that promotion reads.

    ``accuracy``, ``accuracy/balanced`` and ``accuracy/many|medium|few`` are on images of known
    classes, ``accuracy/new`` is the mean accuracy of the new classes, if the model has learned any;
    the predicted class is that of the largest output. ``accuracy/open`` is the mean over known and
    new classes of `right_answers`. ``calibration/ece`` is on images of known classes.
    ``novelty/auroc`` and ``novelty/recall`` tell images of known classes from those of classes that
    no model learns, ``novelty/false_alarm`` is the fraction of the former that is called unknown,
    and ``novelty/false_alarm/many|medium|few`` of those of a band's classes. Where a prior is
    expected, images count by it in calibration and false alarm, and ``accuracy/expected`` is the
    share of right answers. What no image shows is left out.
    """
    labels, number = truth.labels, len(truth.class_counts)
    known = (labels >= 0) & (labels < number)
    found = Accuracy()(
        predictions=answers.predicted[known],
        labels=labels[known],
        class_counts=truth.class_counts,
        many_above=truth.many_above,
        few_below=truth.few_below,
    )
    new = labels >= number
    if bool((answers.classes >= number).any()) and bool(new.any()):
        found["accuracy/new"] = class_mean(
            (answers.predicted[new] == labels[new]).double(), labels[new]
        )
    judged = known | new
    right = right_answers(answers, labels, number).double()
    found["accuracy/open"] = class_mean(right[judged], labels[judged])
    weights = weights_of(truth.prior, labels[known])
    found |= _false_alarm(answers.unknown[known].double(), labels[known], truth, weights)
    stated = answers.logits[known].double().softmax(1).amax(1)
    correct = (answers.predicted[known] == labels[known]).double()
    fraction, gap = Calibration(bins=truth.bins).gaps(stated, correct, weights)
    if weights is not None:
        found["accuracy/expected"] = float((weights * correct).mean())
    found["calibration/ece"] = float((fraction * gap).sum())
    shown = known | (labels == UNKNOWN)
    if bool((labels == UNKNOWN).any()):
        more = OpenSet()(
            confidence=answers.confidence[shown],
            known=known[shown],
            threshold=of_rows(answers.threshold, shown),
        )
        found |= {name: more[name] for name in NOVELTY}
    return {name: value for name, value in found.items() if value == value}


def _false_alarm(
    alarms: Tensor, labels: Tensor, truth: Truth, weights: Tensor | None
) -> dict[str, float]:
    """Return the share of images of known classes that are called unknown, in all and by band."""
    counted = torch.ones_like(alarms) if weights is None else weights
    found = {"novelty/false_alarm": float((counted * alarms).sum() / counted.sum())}
    bands = size_bands(truth.class_counts, truth.many_above, truth.few_below)
    for name, members in bands.items():
        own = members[labels]
        share = (counted[own] * alarms[own]).sum() / counted[own].sum()
        found[f"novelty/false_alarm/{name}"] = float(share)  # NaN: no image
    return found


def answers_of(scorer: Scorer, logits: Tensor, confidence: Tensor, classes: Tensor) -> ModelAnswers:
    """Return a model's answers, given its calibrated logits, confidences and output's classes."""
    level = threshold_of_each(scorer.threshold, scorer.class_thresholds, logits.argmax(1))
    return ModelAnswers(logits, confidence, level, classes)


def judge_out_of_fold(found: OutOfFold, scorer: Scorer, truth: Truth) -> dict[str, float]:
    """Return ``out_of_fold/...``, what answers to training images say of the model that answers.

    Without such answers there are no metrics.

    Args:
        found: Logits and confidences of the training images.
        scorer: Calibrator and threshold.
        truth: Labels of the training images, and bands.
    """
    if not len(found.logits):
        return {}
    logits, outputs = calibrated(scorer, found.logits), torch.arange(found.logits.shape[1])
    judged = judge(answers_of(scorer, logits, found.confidence, outputs), truth)
    return {f"out_of_fold/{name}": judged[name] for name in judged if name in OUT_OF_FOLD}


def of_rows(threshold: float | Tensor, rows: Tensor) -> float | Tensor:
    """Return the threshold of some images, of all or of each."""
    return threshold[rows] if isinstance(threshold, Tensor) else threshold


def class_mean(values: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the mean value per class; NaN without an image.

    Example:
        >>> class_mean(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([4, 4, 7]))
        0.25
    """
    classes = labels.unique()
    if not len(classes):
        return float("nan")
    return float(torch.stack([values[labels == c].mean() for c in classes]).mean())
