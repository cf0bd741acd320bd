from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.scores import Score


class GEN(Score):
    """Negative generalised entropy of the most likely classes.

    ``confidence = -sum_{c in top} p_c^gamma (1 - p_c)^gamma``. A small gamma makes small
    probabilities count: many classes that share a little mean an unknown sample.

    Args:
        gamma: Exponent in (0, 1); 0.1 in the paper.
        top: How many of the largest probabilities are summed, >= 1, at most C are; 100 in the paper
            for 1000 classes.

    Shapes:
        logits [B, C] -> confidence [B] in [-min(top, C) 4^-gamma, 0], float32 (float64 for float64
        input). Higher = more surely known.

    One class gives 0 for every sample.

    Source:
        Liu et al. 2023, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
        CVPR 2023, eq. (3); XixiLiu95/GEN and OpenOOD sum over the classes, pytorch-ood takes the
        mean (same order).

    Example:
        >>> GEN(gamma=0.5)(logits=torch.zeros(1, 2))
        tensor([-1.])
    """

    gamma: Annotated[float, Field(gt=0, lt=1), Range(0.05, 0.5, log=True)] = 0.1
    top: Annotated[int, Field(ge=1)] = 100

    def __call__(self, *, logits: torch.Tensor) -> torch.Tensor:
        probability = full_precision(logits).softmax(dim=1)
        largest = probability.topk(min(self.top, probability.shape[1]), dim=1).values
        return -(largest * (1 - largest)).pow(self.gamma).sum(dim=1)
