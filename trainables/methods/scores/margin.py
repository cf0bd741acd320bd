"""Margin of the two largest softmax probabilities."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import full_precision
from trainables.methods.scores import Score


class Margin(Score):
    """Difference of the two largest softmax probabilities.

    ``confidence = p_(1) - p_(2)`` with the softmax probabilities in descending order.

    Shapes:
        logits [B, C] -> confidence [B] in [0, 1], float32 (float64 for float64 input).
        Higher values indicate a known class.

    With one class the confidence of every sample is 1.

    Source:
        Scheffer et al. 2001, "Active Hidden Markov Models for Information Extraction" (margin
        sampling, which selects the smallest margin).

    Example:
        >>> Margin()(logits=torch.tensor([[5.0, 3.0, 2.0]]).log())
        tensor([0.2000])
    """

    def __call__(self, *, logits: torch.Tensor) -> torch.Tensor:
        probability = full_precision(logits).softmax(dim=1)
        if probability.shape[1] == 1:
            return probability[:, 0]
        top = probability.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]
