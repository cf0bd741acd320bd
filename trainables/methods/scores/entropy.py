"""Negative entropy."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import full_precision
from trainables.methods.scores import Score


class Entropy(Score):
    """Negative entropy of the predicted distribution.

    ``confidence = sum_c p_c log p_c`` (nats).

    Shapes:
        logits [B, C] -> confidence [B] in [-log C, 0], float32 (float64 for float64 input).
        Higher values indicate a known class.

    With one class the confidence of every sample is 0.

    Source:
        Shannon 1948; as a score for unknown samples e.g. Lakshminarayanan et al. 2017,
        arXiv 1612.01474, with the opposite sign.

    Example:
        >>> Entropy()(logits=torch.zeros(1, 4)).exp()
        tensor([0.2500])
    """

    def __call__(self, *, logits: torch.Tensor) -> torch.Tensor:
        log_probability = full_precision(logits).log_softmax(dim=1)
        # a probability that underflows to 0 times its finite logarithm is 0, which is the limit
        return (log_probability.exp() * log_probability).sum(dim=1)
