"""Threshold at a level of false alarm."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.thresholds import Threshold


class FalseAlarm(Threshold):
    """Threshold under which a stated share of images of known classes is called unknown.

    The threshold is the quantile ``level`` of the confidences of known images that the classifier
    and the score were not fitted on, each image weighed by the expected share of its class. With
    sorted confidences ``s_i`` and weights ``w_i``, a fresh image is less sure than ``s_i`` with
    probability ``F_i = (w_1 + ... + w_i) / (W + e)``, W the sum of weights and ``e = sum w_i^2 /
    W`` the weight that the fresh image is expected to have (for equal weights ``i / (n + 1)``);
    between these points the quantile is interpolated.

    Args:
        level: Share of known images that are called unknown, in (0, 1).

    Shapes:
        confidence [N] float, known [N] bool, weights [N] >= 0 (optional; by default equal) ->
        float.

    With fewer than ``1 / level - 1`` known images of equal weight the threshold is ``-inf``.

    Raises:
        ValueError: A confidence is NaN.

    Source:
        Vovk et al. 2005, "Algorithmic Learning in a Random World"; Tibshirani et al. 2019,
        "Conformal Prediction Under Covariate Shift", arXiv 1904.06019 (weights). The interpolation,
        and the expected weight of a fresh image, are this project's.

    Example:
        >>> confidence = torch.tensor([0.1, 0.2, 0.3, 0.4])
        >>> round(FalseAlarm(level=0.3)(confidence=confidence, known=torch.ones(4).bool()), 4)
        0.15
    """

    level: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def __call__(
        self,
        *,
        confidence: torch.Tensor,
        known: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> float:
        rows = torch.ones(len(confidence)).bool() if known is None else known.bool()
        values = confidence.detach().double()[rows]
        if bool(values.isnan().any()):
            raise ValueError("thresholds/false_alarm: confidence must be numbers; received NaN")
        weight = torch.ones_like(values) if weights is None else weights.double()[rows]
        return weighted_quantile(values, weight, self.level)


def weighted_quantile(values: torch.Tensor, weights: torch.Tensor, level: float) -> float:
    """Return the value that a fresh one is below with probability ``level``; see `FalseAlarm`.

    Args:
        values: ``[N]`` float64.
        weights: ``[N]`` float64, >= 0.
        level: In (0, 1).

    Returns:
        The quantile; ``-inf`` if even the smallest value is too likely undercut.

    Example:
        >>> weighted_quantile(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 2.0]), 0.5)
        2.375
    """
    kept = weights > 0
    ordered, order = values[kept].sort()
    weight = weights[kept][order]
    if not len(ordered):
        return -math.inf
    total = weight.sum()
    below = weight.cumsum(0) / (total + weight.square().sum() / total)
    # 1e-12, because 19 / 20 of 20 images may be 0.9500000000000001
    place = int(torch.searchsorted(below, level - 1e-12))
    if place == 0:
        return float(ordered[0]) if float(below[0]) <= level + 1e-12 else -math.inf
    if place == len(ordered):
        return float(ordered[-1])
    share = (level - float(below[place - 1])) / float(below[place] - below[place - 1])
    return float(ordered[place - 1] + share * (ordered[place] - ordered[place - 1]))
