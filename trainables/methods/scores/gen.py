"""Negative generalized entropy (GEN)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.scores import Score


class GEN(Score):
    """Negative generalized entropy (GEN) of the most likely classes.

    ``confidence = -sum_{c in top} p_c^gamma (1 - p_c)^gamma``. A small gamma gives small
    probabilities more weight, so that many classes with small probabilities indicate an unknown
    sample.

    Args:
        gamma: Exponent in (0, 1); 0.1 in the paper.
        top: Number of largest probabilities in the sum, >= 1, cut to C; 100 in the paper for 1000
            classes.

    Shapes:
        logits [B, C] -> confidence [B] in [-min(top, C) 4^-gamma, 0], float32 (float64 for float64
        input). Higher values indicate a known class.

    With one class the confidence of every sample is 0.

    Source:
        Liu et al. 2023, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
        CVPR 2023, eq. (3); XixiLiu95/GEN and OpenOOD use the sum over classes, pytorch-ood the mean
        (the same ranking).

    Example:
        >>> GEN(gamma=0.5)(logits=torch.zeros(1, 2))
        tensor([-1.])
    """

    gamma: Annotated[float, Field(gt=0, lt=1), Range(0.05, 0.5, log=True)] = 0.1
    top: Annotated[int, Field(ge=1)] = 100

    def __call__(self, *, logits: torch.Tensor) -> torch.Tensor:
        # float64, because float32 has no digit left of 1 - p for p near 1, and a small power counts
        probability = logits.double().softmax(dim=1)
        largest = probability.topk(min(self.top, probability.shape[1]), dim=1).values
        found = -(largest * (1 - largest)).pow(self.gamma).sum(dim=1)
        return found.to(full_precision(logits).dtype)
