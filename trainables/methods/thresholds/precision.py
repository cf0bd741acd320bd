"""Threshold at a given precision of unknown samples."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.thresholds import Threshold


class Precision(Threshold):
    """Threshold with the largest recall of unknown samples at a given precision.

    Of the thresholds with ``precision >= target``, the one with the largest recall of unknown
    samples is chosen, on a tie the most precise. At the expected prevalence p of unknown samples,
    ``precision = p TPR / (p TPR + (1 - p) FPR)``.

    Args:
        target: Smallest precision, that is, fraction of unknown samples among those called unknown,
            in (0, 1].
        prevalence: Expected fraction of unknown samples in the stream, in (0, 1); ``None`` takes
            the fraction in the validation samples, which usually differs.
        certainty: Confidence level, in (0, 1), of a one-sided Clopper-Pearson lower bound that
            replaces the estimated precision, which is optimistic with few validation samples.
            ``None`` uses the estimate.

    Shapes:
        confidence [N] float, known [N] bool -> float, between two confidences that occur.

    If no threshold reaches the target, or without unknown samples, the threshold is ``-inf``.
    Without known samples, all samples are called unknown.

    Raises:
        ValueError: A confidence is NaN.

    Source:
        The definition of precision at a given prevalence; Clopper & Pearson 1934, "The Use of
        Confidence or Fiducial Limits Illustrated in the Case of the Binomial", Biometrika 26.

    Example:
        >>> confidence = torch.tensor([0.1, 0.2, 0.3, 0.4])
        >>> known = torch.tensor([False, False, True, False])
        >>> round(Precision(target=0.9)(confidence=confidence, known=known), 2)
        0.25
        >>> round(Precision(target=0.75)(confidence=confidence, known=known), 2)
        0.4
    """

    target: Annotated[float, Field(gt=0, le=1), Range(0.7, 0.99)] = 0.95
    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    certainty: Annotated[float, Field(gt=0, lt=1)] | None = None

    def __call__(self, *, confidence: torch.Tensor, known: torch.Tensor) -> float:
        values = confidence.detach().double().cpu().numpy()
        is_known = known.bool().cpu().numpy()
        if np.isnan(values).any():
            raise ValueError("thresholds/precision: confidence must be numbers; received NaN")
        if is_known.all():
            return -np.inf
        levels, position = np.unique(values, return_inverse=True)
        known_below = np.cumsum(np.bincount(position[is_known], minlength=len(levels)))
        unknown_below = np.cumsum(np.bincount(position[~is_known], minlength=len(levels)))
        precision = self._precision(unknown_below, known_below)
        # 1e-12, because a precision that equals the target up to rounding reaches the target
        reached = np.flatnonzero((precision >= self.target - 1e-12) & (unknown_below > 0))
        if len(reached) == 0:
            return -np.inf
        most = unknown_below[reached] == unknown_below[reached].max()
        return _just_above(levels, int(reached[most][0]))

    def _precision(self, unknown: Any, known: Any) -> Any:
        """Return the precision for counts of unknown and known samples that are called unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = unknown / (unknown + known)
            if self.certainty is not None:
                from scipy.stats import beta

                precision = beta.ppf(1 - self.certainty, unknown, known + 1)
            if self.prevalence is None or known[-1] == 0:
                return precision
            # the change of the odds to the stream's prevalence is monotonic, so the bound holds
            stream = self.prevalence / (1 - self.prevalence)
            sample = unknown[-1] / known[-1]
            return precision / (precision + (1 - precision) * sample / stream)


def _just_above(levels: Any, last: int) -> float:
    """Return a threshold above ``levels[last]`` and at most the next level.

    Confidences are compared in float32, so the midpoint is returned only if it differs from the
    lower level in float32.
    """
    if last + 1 == len(levels):
        return float(np.nextafter(np.float32(levels[last]), np.float32(np.inf)))
    middle = (levels[last] + levels[last + 1]) / 2
    return float(middle if np.float32(middle) > levels[last] else levels[last + 1])
