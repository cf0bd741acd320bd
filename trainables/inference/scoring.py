"""Fit a calibrator, a confidence score and a threshold, for a classifier before or after an update.

Where no images of new classes are set aside for the threshold, classes of the classifier stand in
for them: each is left out of the head and of the score in turn, and its validation images are the
unknown ones (`left_out_confidences`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Classifier, OutOfFold, Scorer
from trainables.closed_form import statistics
from trainables.features.predict import calibrated, confidence, predict_logits
from trainables.functional.to_device import to_device
from trainables.inference.expected_prior import weights_of
from trainables.inference.out_of_fold import (
    Scoring,
    answers_to_logits,
    class_was_there,
    scorer_of_tail,
)
from trainables.methods.calibrators import Calibrator
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold

# tensors that the stages which fit a scorer give to its methods
PROVIDES = {
    "method": frozenset({"logits", "features", "class_counts", "state"}),
    "threshold": frozenset(
        {"confidence", "known", "labels", "predicted", "weights", "class_counts"}
    ),
}
MOST_ROUNDS = 20  # classes are left out one by one, or, where there are more, in as many groups
FEWEST_CLASSES = 3  # leaving one of two out leaves a single class, of which every image is


class Samples(NamedTuple):
    """Features ``[N, D]`` and labels ``[N]`` int64."""

    features: Tensor
    labels: Tensor


class _Outputs(NamedTuple):
    """Features ``[N, D]``, calibrated logits ``[N, C]`` and labels ``[N]``."""

    features: Tensor
    logits: Tensor
    labels: Tensor


def fit_scorer(
    methods: tuple[Calibrator, Score, Threshold],
    classifier: Classifier,
    *,
    train: Samples,
    validation: Samples,
    unknown: Tensor,
    prior: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Scorer:
    """Fit the calibrator on validation images, the score on training images, then the threshold.

    The threshold is fitted on validation images and on images of classes that the classifier does
    not know; without the latter, on classes left out in turn.

    Args:
        methods: Calibrator, score and threshold.
        classifier: The classifier.
        train: Training samples of the classifier.
        validation: Validation samples of classes that the classifier knows.
        unknown: Features ``[U, D]`` of classes that the classifier does not know; U may be 0.
        prior: Expected share of each class ``[C]``; ``None``: as the validation samples come.
        device: Device of logits and scores; calibrator and threshold are fitted on the CPU.

    Returns:
        The scorer, on the CPU.
    """
    calibrator, score, threshold = methods
    classifier = to_device(classifier, device)
    counts = classifier.class_counts
    raw = predict_logits(classifier, validation.features.to(device))
    weights = weights_of(prior, validation.labels)
    given = {"logits": raw.cpu(), "labels": validation.labels}
    given |= {} if weights is None else {"weights": weights}
    state = to_device(calibrator.call_with(given, "fit"), device)
    scorer = Scorer(calibrator, state, score, {}, float("-inf"), prior=prior)

    def outputs(samples: Samples) -> _Outputs:
        features = samples.features.to(device)
        logits = calibrated(scorer, predict_logits(classifier, features))
        return _Outputs(features, logits, samples.labels.to(device))

    learned, seen = outputs(train), outputs(validation)
    scorer = _fit_score(scorer, learned, counts)
    known = _confidence(scorer, seen, counts)
    if len(unknown):
        nowhere = torch.full((len(unknown),), -1)
        new = _confidence(scorer, outputs(Samples(unknown, nowhere)), counts)
    elif "known" not in threshold.required_inputs():
        new = torch.zeros(0)
    else:
        new, rounds = left_out_confidences(scorer, learned, seen, counts)
        known = known.repeat(max(1, rounds - 1))  # as often as a round had the image as a known one
    times = len(known) // max(len(validation.labels), 1)
    seen_as = seen.logits.argmax(1).repeat(times).cpu()
    counted = None if weights is None else weights.repeat(times)
    answers = Answers(known, validation.labels.repeat(times), seen_as, counted)
    return to_device(_with_threshold(scorer, threshold, answers, new, counts), "cpu")


class Answers(NamedTuple):
    """Confidence ``[N]`` of images of known classes, their labels, and what they are taken for.

    ``weights [N]`` are how much each counts; ``None``: all alike.
    """

    confidence: Tensor
    labels: Tensor
    predicted: Tensor
    weights: Tensor | None


def fit_out_of_fold(
    methods: tuple[Calibrator, Score, Threshold],
    classifier: Classifier,
    *,
    train: statistics.Samples,
    answers: OutOfFold,
    generator: torch.Generator,
    prior: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Scorer, OutOfFold]:
    """Fit calibrator, score and threshold to training images and their answers out of fold.

    The confidences that the threshold is fitted on come from calibrators and scores without the
    image's group. A threshold that needs images of new classes gets classes left out in turn: such
    an image's confidence is by a score without its class.

    Args:
        methods: Calibrator, score and threshold.
        classifier: The classifier.
        train: Training images with groups.
        answers: Their logits out of fold.
        generator: Draws the folds.
        prior: Expected share of each class ``[C]``; ``None``: as in training.
        device: Device of logits and scores.

    Returns:
        The scorer, and the answers with confidences; both on the CPU.
    """
    calibrator, score, threshold = methods
    tail = Scoring(calibrator, score)
    weights = weights_of(prior, train.labels)
    train = train if weights is None else train._replace(weights=weights)
    data, logits = to_device((train, answers.logits), device)
    counts = classifier.class_counts.to(device)
    scorer = scorer_of_tail(tail, data, logits, counts)
    found = answers_to_logits(tail, data, logits, counts, generator=generator)
    known, new = found.confidence.cpu(), torch.zeros(0)
    seen = _Outputs(data.features, calibrated(scorer, logits), data.labels)
    times = 1
    if "known" in threshold.required_inputs():
        new, rounds = left_out_confidences(scorer, seen, seen, counts)
        times = max(1, rounds - 1)
    told = class_was_there(answers.logits, train)  # the others look like new classes
    given = Answers(
        known[told].repeat(times),
        train.labels[told].repeat(times),
        answers.logits[told].argmax(1).repeat(times),
        train.weights[told].repeat(times),
    )
    scorer = _with_threshold(scorer._replace(prior=prior), threshold, given, new, counts)
    return to_device(scorer, "cpu"), answers._replace(confidence=known)


def _with_threshold(
    scorer: Scorer, threshold: Threshold, known: Answers, new: Tensor, class_counts: Tensor
) -> Scorer:
    """Return a scorer with its threshold, fitted on known images and confidences of new ones."""
    available = {
        "confidence": torch.cat([known.confidence, new]),
        "known": torch.cat([torch.ones(len(known.confidence)), torch.zeros(len(new))]).bool(),
        "labels": torch.cat([known.labels, torch.full((len(new),), -1)]),
        "predicted": torch.cat([known.predicted, torch.full((len(new),), -1)]),
        "class_counts": class_counts.cpu(),
    }
    if known.weights is not None:
        available["weights"] = torch.cat([known.weights, torch.ones(len(new))])
    scorer = scorer._replace(threshold=float(threshold.call_with(available)))
    if not hasattr(threshold, "by_class"):
        return scorer
    return scorer._replace(class_thresholds=threshold.call_with(available, "by_class"))


def left_out_confidences(
    scorer: Scorer, train: _Outputs, validation: _Outputs, class_counts: Tensor
) -> tuple[Tensor, int]:
    """Return the confidence of each validation image by a head and a score without its class.

    Also returned is the number of rounds. In a round, one class (or group) is new and all others
    are known, so that over all rounds an image is known once less than there are rounds.

    The class's logit is removed, and a score that is fitted is fitted without its training images.
    The network has seen the class, so that a really new class is usually harder to notice. With
    fewer than 3 classes nothing is returned.

    Args:
        scorer: Calibrator and score; the fitted state of the score is not used.
        train: Training samples.
        validation: Validation samples.
        class_counts: Training images per class ``[C]``.
    """
    number = len(class_counts)
    present = validation.labels.unique().tolist()
    if number < FEWEST_CLASSES:
        return torch.zeros(0), 0
    parts = [torch.zeros(0)]
    rounds = min(MOST_ROUNDS, len(present))
    for first in range(rounds):
        left_out = set(present[first::rounds])
        kept = torch.tensor([c for c in range(number) if c not in left_out])
        kept = kept.to(class_counts.device)
        without = _fit_score(scorer, _restrict(train, kept), class_counts[kept])
        rows = ~torch.isin(validation.labels, kept)
        left = _Outputs(
            validation.features[rows], validation.logits[rows][:, kept], validation.labels[rows]
        )
        parts.append(_confidence(without, left, class_counts[kept]))
    return torch.cat(parts), rounds


def _fit_score(scorer: Scorer, train: _Outputs, class_counts: Tensor) -> Scorer:
    """Return the scorer with its score fitted on training samples, if the score is fitted."""
    if not hasattr(scorer.score, "fit"):
        return scorer
    available = {**train._asdict(), "class_counts": class_counts}
    fitted = to_device(scorer.score.call_with(available, "fit"), class_counts.device)
    return scorer._replace(score_state=fitted)


def _restrict(outputs: _Outputs, kept: Tensor) -> _Outputs:
    """Return the samples of some classes ``kept``, ascending, with renumbered labels."""
    rows = torch.isin(outputs.labels, kept)
    labels = torch.searchsorted(kept, outputs.labels[rows])
    return _Outputs(outputs.features[rows], outputs.logits[rows][:, kept], labels)


def _confidence(scorer: Scorer, outputs: _Outputs, class_counts: Tensor) -> Tensor:
    return confidence(
        scorer, features=outputs.features, logits=outputs.logits, class_counts=class_counts
    ).cpu()
