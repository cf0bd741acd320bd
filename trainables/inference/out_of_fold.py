"""Answers of a recipe's whole tail to its training images, by fits without the image's group."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Classifier, OutOfFold, Scorer
from trainables.closed_form.groups import groups_of_each_class
from trainables.closed_form.out_of_fold import k_fold
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import Samples
from trainables.features.predict import calibrated, confidence
from trainables.features.rebalancer_search import answer_out_of_fold
from trainables.methods.calibrators import Calibrator
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score


class Tail(NamedTuple):
    """The methods that follow a frozen trunk."""

    rebalancer: Rebalancer
    calibrator: Calibrator
    score: Score


class Scoring(NamedTuple):
    """The methods that follow a classifier."""

    calibrator: Calibrator
    score: Score


def answers_of_tail(
    tail: Tail, classifier: Classifier, data: Samples, *, generator: torch.Generator
) -> OutOfFold:
    """Return logits and confidences of training images by tails without the image's group.

    Logits are exact where the rebalancer has a closed form, otherwise from five folds. Calibrator
    and score, with its statistics, are fitted in five folds to logits out of fold. A threshold on
    confidences whose statistics contain the image would reject nearly all fresh images.

    Args:
        tail: The methods; the rebalancer is fitted to features alone.
        classifier: Tells the number of classes, and the head that a rebalancer trains anew.
        data: Features, labels and groups of the training images.
        generator: Draws the folds.

    Raises:
        ValueError: The rebalancer starts from the given classifier, which was trained on all
            images.
    """
    if not tail.rebalancer.from_features:
        raise ValueError(
            f"rebalancers/{tail.rebalancer.name} starts from a classifier that was trained on all "
            "images, so it has no answers out of fold; choose one that is fitted to features "
            "alone, such as ridge, lda or crt"
        )
    seed = int(torch.randint(2**62, (), generator=generator))
    given = {"classifier": classifier, "class_counts": classifier.class_counts}
    ((_, logits),) = answer_out_of_fold([tail.rebalancer], given, data, seed=seed)
    return answers_to_logits(
        tail, data, logits.float(), classifier.class_counts, generator=generator
    )


def answers_to_logits(
    tail: Tail | Scoring,
    data: Samples,
    logits: Tensor,
    class_counts: Tensor,
    *,
    generator: torch.Generator,
) -> OutOfFold:
    """Return `answers_of_tail` where the rebalancer's logits out of fold ``[N, C]`` are there."""
    if hasattr(tail.score, "leave_out"):
        given = {"features": data.features, "labels": data.labels, "groups": data.groups}
        return OutOfFold(logits, tail.score.call_with(given, "leave_out"), data.groups)
    if not _reads_features(tail.score):
        data = data._replace(features=data.features[:, :0])  # five copies of them less

    def answer(fitted: Tensor, asked: Tensor) -> Tensor:
        scorer = scorer_of_tail(tail, data.part(fitted), logits[fitted], class_counts)
        return confidence(
            scorer,
            features=data.features[asked],
            logits=calibrated(scorer, logits[asked]),
            class_counts=class_counts,
        )

    return OutOfFold(logits, k_fold(data, answer, generator=generator), data.groups)


def _reads_features(score: Score) -> bool:
    """Say whether a score asks for features, in its fit or its answers."""
    functions = ["__call__", *(["fit"] if hasattr(score, "fit") else [])]
    return any("features" in score.accepted_inputs(function) for function in functions)


def scorer_of_tail(
    tail: Tail | Scoring, data: Samples, logits: Tensor, class_counts: Tensor
) -> Scorer:
    """Return calibrator and score, fitted to images and their logits out of fold ``[N, C]``.

    The weights of the images are those of the calibrator's fit, which takes those that a fit could
    tell (`class_was_there`). The threshold is -inf.
    """
    told = class_was_there(logits, data)
    given = {"logits": logits[told], "labels": data.labels[told], "weights": data.weights[told]}
    state = tail.calibrator.call_with(given, "fit")
    scorer = Scorer(tail.calibrator, state, tail.score, {}, float("-inf"))
    if not hasattr(tail.score, "fit"):
        return scorer
    available: dict[str, Any] = {
        "features": data.features,
        "logits": calibrated(scorer, logits),
        "labels": data.labels,
        "class_counts": class_counts,
    }
    return scorer._replace(score_state=tail.score.call_with(available, "fit"))


def class_was_there(logits: Tensor, data: Samples) -> Tensor:
    """Say for each image ``[N]`` whether the fit that answers it had other images of its class.

    The only group of a class leaves the fit with the class. Such an answer says nothing about the
    class, and the likelihood of one of them can outweigh those of all other images.

    Args:
        logits: Logits out of fold ``[N, C]``; `NEVER` for a class that left.
        data: Labels and groups of the images.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> data = samples(torch.zeros(3, 1), torch.tensor([0, 0, 1]))
        >>> class_was_there(torch.eye(3), data).tolist()
        [True, True, False]
    """
    groups = groups_of_each_class(data.labels, data.groups, logits.shape[1])
    own = logits.gather(1, data.labels[:, None]).flatten()
    return (own > NEVER) & (groups[data.labels] > 1)
