"""The verdict on new images by the service's own threshold, and what becomes of the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.functional.verdict import called_unknown, threshold_of_each
from trainables.methods.thresholds.false_alarm import FalseAlarm


class Answers(NamedTuple):
    """What a tail answers about images: ``confidence [N]`` and ``predicted [N]`` int64."""

    confidence: Tensor
    predicted: Tensor


class Verdict(NamedTuple):
    """The threshold of all images, and of those that are taken for each class ``[K]``, or ``None``.

    Example:
        >>> verdict = Verdict(0.5, torch.tensor([0.2, 0.7]))
        >>> verdict.unknown(Answers(torch.tensor([0.4, 0.4]), torch.tensor([0, 1]))).tolist()
        [False, True]
    """

    threshold: float
    by_class: Tensor | None

    def unknown(self, answers: Answers) -> Tensor:
        """Return which images ``[N]`` bool are called unknown."""
        limit = threshold_of_each(self.threshold, self.by_class, answers.predicted)
        return called_unknown(answers.confidence, limit)

    @property
    def nothing_is_unknown(self) -> bool:
        """Whether the known images were too few to tell, so that nothing is called unknown."""
        every = [self.threshold] if self.by_class is None else self.by_class.tolist()
        return max(every) == -math.inf


def verdict_at(
    method: FalseAlarm,
    level: float,
    known: Answers,
    *,
    class_counts: Tensor,
    weights: Tensor | None,
) -> Verdict:
    """Return the thresholds that the service would have at a level of false alarm.

    Args:
        method: Of the service; its own level does not count.
        level: Share of known images that are called unknown, in (0, 1).
        known: Answers about known images, by fits that lack them ``[N]``.
        class_counts: Training images of each known class ``[K]``.
        weights: How much each known image counts ``[N]``; ``None``: all alike.

    Example:
        >>> known = Answers(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]))
        >>> counts = torch.tensor([2, 1])
        >>> at = verdict_at(FalseAlarm(), 0.5, known, class_counts=counts, weights=None)
        >>> at.by_class.tolist(), at.nothing_is_unknown  # the quantile of 1 and 3, and of 5
        ([2.0, 5.0], False)
        >>> verdict_at(FalseAlarm(), 0.05, known, class_counts=counts, weights=None).by_class
        tensor([-inf, -inf], dtype=torch.float64)
    """
    method = method.model_copy(update={"level": level})
    confidence = known.confidence
    return Verdict(
        method(confidence=confidence, weights=weights),
        method.by_class(
            confidence=confidence,
            predicted=known.predicted,
            class_counts=class_counts,
            weights=weights,
        ),
    )


def share_of(chosen: Tensor) -> float:
    """Return the share of images ``[N]`` bool that are chosen."""
    return float(chosen.double().mean())


def taken_for(predicted: Tensor, noticed: Tensor, names: list[str]) -> list[tuple[str, float]]:
    """Return the known classes that unnoticed images are called, with their share of all images.

    The shares add up to that of the unnoticed images; the largest comes first, equal ones by name.

    Args:
        predicted: Known class that each image of one new class is taken for ``[N]`` int64.
        noticed: Which of them are called unknown ``[N]`` bool.
        names: Names of the known classes.

    Example:
        >>> noticed = torch.tensor([True, False, False, False])
        >>> taken_for(torch.tensor([0, 1, 1, 0]), noticed, ["cat", "dog"])
        [('dog', 0.5), ('cat', 0.25)]
    """
    counts = torch.bincount(predicted[~noticed], minlength=len(names)).tolist()
    shares = [(name, count / len(predicted)) for name, count in zip(names, counts, strict=True)]
    return sorted((pair for pair in shares if pair[1]), key=lambda pair: (-pair[1], pair[0]))
