"""Thresholds at a level of false alarm, and what becomes of the images of a new class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Answers(NamedTuple):
    """What a tail answers about images: ``confidence [N]`` and ``predicted [N]`` int64."""

    confidence: Tensor
    predicted: Tensor


def image_weights(labels: Tensor, prior: Tensor | None) -> Tensor:
    """Return the weight ``[N]`` of each known image, float64, of sum 1.

    Args:
        labels: ``[N]`` int64.
        prior: Expected share of each class ``[C]``, of any sum; ``None``: as frequent as they are.
            A class without images does not count.

    Example:
        >>> image_weights(torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5])).tolist()
        [0.25, 0.25, 0.5]
    """
    counts = torch.bincount(labels).double()
    share = counts if prior is None else prior[: len(counts)].double() * (counts > 0)
    weights = (share / counts.clamp_min(1))[labels]
    return weights / weights.sum()


def threshold_at(confidence: Tensor, weights: Tensor, level: float) -> float:
    """Return the largest confidence below which lies at most a share ``level`` of the weight.

    A known image is a false alarm if its confidence is below the threshold.

    Args:
        confidence: Of known images ``[N]``, by fits that lack them.
        weights: ``[N]``, of sum 1.
        level: In (0, 1).

    Example:
        >>> confidence = torch.tensor([0.4, 0.1, 0.3, 0.2])
        >>> [round(threshold_at(confidence, torch.full((4,), 0.25), x), 1) for x in (0.2, 0.5)]
        [0.1, 0.3]
    """
    values, order = confidence.double().sort()
    below = torch.cat([weights.new_zeros(1), weights[order].cumsum(0)])
    # images of equal confidence are on one side: what lies below is counted up to the first of them
    first = torch.searchsorted(values, values)
    # 1e-9: a share that equals the level up to rounding is allowed
    allowed = below[first] <= level + 1e-9
    return float(values[allowed][-1])


def noticed_rate(confidence: Tensor, threshold: float) -> float:
    """Return the share of images whose confidence is below the threshold."""
    return float((confidence.double() < threshold).double().mean())


def taken_for(new: Answers, threshold: float, names: list[str]) -> list[tuple[str, float]]:
    """Return the known classes that unnoticed images are called, with their share of all images.

    The shares add up to that of the unnoticed images; the largest comes first, equal ones by name.

    Args:
        new: Answers about the images of one new class.
        threshold: Of the confidence.
        names: Names of the known classes.

    Example:
        >>> new = Answers(torch.tensor([0.1, 0.9, 0.8, 0.7]), torch.tensor([0, 1, 1, 0]))
        >>> taken_for(new, 0.5, ["cat", "dog"])
        [('dog', 0.5), ('cat', 0.25)]
    """
    unnoticed = new.confidence.double() >= threshold
    counts = torch.bincount(new.predicted[unnoticed], minlength=len(names)).tolist()
    shares = [(name, count / len(unnoticed)) for name, count in zip(names, counts, strict=True)]
    return sorted((pair for pair in shares if pair[1]), key=lambda pair: (-pair[1], pair[0]))
