"""Threshold at a level of false alarm."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.methods.metrics.accuracy import size_bands
from trainables.methods.thresholds import Threshold


class FalseAlarm(Threshold):
    """Threshold under which a stated share of images of known classes is called unknown.

    The threshold is the quantile ``level`` of the confidences of known images that the classifier
    and the score were not fitted on, each image weighed by the expected share of its class. With
    sorted confidences ``s_i`` and weights ``w_i``, a fresh image is less sure than ``s_i`` with
    probability ``F_i = (w_1 + ... + w_i) / (W + e)``, W the sum of weights and ``e = sum w_i^2 /
    W`` the weight that the fresh image is expected to have (for equal weights ``i / (n + 1)``);
    between these points the quantile is interpolated.

    One quantile calls nearly no image of frequent classes unknown, and many of rare ones. So images
    that are taken for a class have its own quantile if they are ``1 / level - 1`` or more (19 at 5
    %; of unequal weights ``W / e`` counts); the others of a band, many, medium or few, share one,
    and so do those of bands with too few. Each image is in one of these parts by its answer alone,
    so the level holds in each part, and in all.

    Args:
        level: Share of known images that are called unknown, in (0, 1).
        offsets: Who has a threshold of its own: ``classes`` and bands, ``bands`` alone, or
            ``none``.
        many_above: A class with more training images than this belongs to the band "many".
        few_below: A class with fewer training images than this belongs to the band "few".

    Shapes:
        confidence [N] float, known [N] bool, weights [N] >= 0 (optional; by default equal) ->
        float. by_class: also predicted [N] int64, class_counts [C] int64 -> float64 [C].

    With fewer than ``1 / level - 1`` known images in all the threshold is ``-inf``.

    Raises:
        ValueError: A confidence is NaN.

    Source:
        Vovk et al. 2005, "Algorithmic Learning in a Random World" (conformal prediction, of parts
        by taxonomy); Tibshirani et al. 2019, "Conformal Prediction Under Covariate Shift",
        arXiv 1904.06019 (weights). The interpolation, the expected weight of a fresh image, and the
        parts are this project's.

    Example:
        >>> confidence = torch.tensor([0.1, 0.2, 0.3, 0.4])
        >>> round(FalseAlarm(level=0.3)(confidence=confidence, known=torch.ones(4).bool()), 4)
        0.15
        >>> FalseAlarm(level=0.5).by_class(
        ...     confidence=torch.tensor([1.0, 3.0, 5.0]),
        ...     predicted=torch.tensor([0, 0, 1]),
        ...     class_counts=torch.tensor([2, 1]),
        ... ).tolist()  # of 1 and 3, and of 5
        [2.0, 5.0]
    """

    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    offsets: Literal["classes", "bands", "none"] = "classes"
    many_above: Annotated[int, Field(ge=0)] = 100
    few_below: Annotated[int, Field(ge=0)] = 20

    def __call__(
        self,
        *,
        confidence: torch.Tensor,
        known: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> float:
        values, weight, _ = _of_known(confidence, known, weights)
        return weighted_quantile(values, weight, self.level)

    def by_class(
        self,
        *,
        confidence: torch.Tensor,
        predicted: torch.Tensor,
        class_counts: torch.Tensor,
        known: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Return the threshold of the images that are taken for each class ``[C]``."""
        if self.offsets == "none":
            return None
        values, weight, rows = _of_known(confidence, known, weights)
        taken_for = predicted[rows]
        found = class_counts.new_full(
            class_counts.shape, weighted_quantile(values, weight, self.level), dtype=torch.float64
        )
        left = torch.ones_like(class_counts, dtype=torch.bool)

        def share_one(classes: torch.Tensor) -> None:
            """Give classes ``[C]`` bool the quantile of their images, if these are enough."""
            own = classes[taken_for]
            quantile = weighted_quantile(values[own], weight[own], self.level)
            if quantile > -math.inf:
                found[classes] = quantile
                left.logical_and_(~classes)

        if self.offsets == "classes":
            for label in range(len(class_counts)):
                share_one(torch.arange(len(class_counts)) == label)
        for members in size_bands(class_counts, self.many_above, self.few_below).values():
            share_one(members & left)
        share_one(left.clone())
        return found


def _of_known(
    confidence: torch.Tensor, known: torch.Tensor | None, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return confidences and weights of the known images, and which ones these are ``[N]`` bool."""
    rows = torch.ones(len(confidence)).bool() if known is None else known.bool()
    values = confidence.detach().double()[rows]
    if bool(values.isnan().any()):
        raise ValueError("thresholds/false_alarm: confidence must be numbers; received NaN")
    return values, torch.ones_like(values) if weights is None else weights.double()[rows], rows


def weighted_quantile(values: torch.Tensor, weights: torch.Tensor, level: float) -> float:
    """Return the value that a fresh one is below with probability ``level``; see `FalseAlarm`.

    Args:
        values: ``[N]`` float64.
        weights: ``[N]`` float64, >= 0.
        level: In (0, 1).

    Returns:
        The quantile; ``-inf`` if fewer than ``1 / level - 1`` values (weighed) are too few to tell.

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
    expected = weight.square().sum() / total
    # 1e-9, because 1 / 0.05 - 1 is 19.000000000000004 or so
    if float(total / expected) < 1 / level - 1 - 1e-9:
        return -math.inf
    below = weight.cumsum(0) / (total + expected)
    place = int(torch.searchsorted(below, level))
    if place == 0:
        return float(ordered[0])
    if place == len(ordered):
        return float(ordered[-1])
    share = (level - float(below[place - 1])) / float(below[place] - below[place - 1])
    return float(ordered[place - 1] + share * (ordered[place] - ordered[place - 1]))
