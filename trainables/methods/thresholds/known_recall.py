"""Threshold at a given recall of known samples."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.thresholds import Threshold


class KnownRecall(Threshold):
    """Threshold at a given recall of known samples.

    ``threshold = quantile_{1 - keep}`` of the confidences of the known samples, with linear
    interpolation. No unknown samples are needed; the precision is not controlled.

    Args:
        keep: Fraction of known samples to call known, in (0, 1); 0.95 in the literature ("at 95 %
            TPR").

    Shapes:
        confidence [N] float, known [N] bool -> float.

    Without known samples the threshold is ``-inf``.

    Raises:
        ValueError: A confidence is NaN.

    Source:
        Liang et al. 2018, "Enhancing The Reliability of Out-of-distribution Image Detection in
        Neural Networks" (ODIN), arXiv 1706.02690.

    Example:
        >>> confidence = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
        >>> known = torch.tensor([True, True, True, True, True, False])
        >>> KnownRecall(keep=0.75)(confidence=confidence, known=known)
        1.0
    """

    keep: Annotated[float, Field(gt=0, lt=1), Range(0.8, 0.99)] = 0.95

    def __call__(self, *, confidence: torch.Tensor, known: torch.Tensor) -> float:
        values = confidence.detach().double().cpu().numpy()[known.bool().cpu().numpy()]
        if np.isnan(values).any():
            raise ValueError("thresholds/known_recall: confidence must be numbers; received NaN")
        return float(np.quantile(values, 1 - self.keep)) if len(values) else -np.inf
