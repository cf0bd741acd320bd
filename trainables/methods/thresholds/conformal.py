"""Conformal threshold."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.thresholds import Threshold


class Conformal(Threshold):
    """Conformal threshold, which bounds the probability of calling a known sample unknown.

    With n known validation samples, the p-value of a sample of confidence s is
    ``(1 + #{known: confidence <= s}) / (n + 1)``, and the sample is called unknown if ``p <=
    alpha``. The threshold is therefore the k-th smallest confidence of the known samples,
    ``k = floor(alpha (n + 1))``. The bound holds for any n and any distribution, if later known
    samples are exchangeable with the validation samples.

    Args:
        alpha: Largest probability that a known sample is called unknown, in (0, 1). Default 0.05,
            as is customary.

    Shapes:
        confidence [N] float, known [N] bool -> float, one of the confidences.

    With fewer than ``1/alpha - 1`` known samples the threshold is ``-inf``.

    Raises:
        ValueError: A confidence is NaN.

    Source:
        Vovk et al. 2005, "Algorithmic Learning in a Random World"; Bates et al. 2023, "Testing for
        Outliers with Conformal p-values", arXiv 2104.08279.

    Example:
        >>> confidence = torch.tensor([0.3, 0.1, 0.4, 0.2])
        >>> Conformal(alpha=0.4)(confidence=confidence, known=torch.ones(4).bool())
        0.20000000298023224
        >>> Conformal(alpha=0.1)(confidence=confidence, known=torch.ones(4).bool())
        -inf
    """

    alpha: Annotated[float, Field(gt=0, lt=1), Range(0.01, 0.2, log=True)] = 0.05

    def __call__(self, *, confidence: torch.Tensor, known: torch.Tensor) -> float:
        values = confidence.detach().double().cpu().numpy()[known.bool().cpu().numpy()]
        if np.isnan(values).any():
            raise ValueError("thresholds/conformal: confidence must be numbers; received NaN")
        # 1e-9, because 0.29 * 100 is 28.999999999999996 in floating point
        rank = math.floor(self.alpha * (len(values) + 1) + 1e-9)
        return float(np.sort(values)[rank - 1]) if rank else -math.inf
