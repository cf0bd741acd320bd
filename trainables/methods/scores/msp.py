"""Maximum softmax probability (MSP)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import without_prior
from trainables.methods.method import Range
from trainables.methods.scores import Score


class MSP(Score):
    """Maximum softmax probability (MSP), the probability of the most likely class.

    ``confidence = max_c softmax((f - prior_tau * log pi) / temperature)_c``.

    Args:
        temperature: Softmax temperature, > 0; 1 in the paper. Values above 1 give the other classes
            more weight.
        prior_tau: Factor of the log class prior that is subtracted from the logits, >= 0. Logits of
            long-tailed training contain the prior, which lowers the confidence of rare known
            classes; 1 removes the prior. Keep 0 if the classifier's logits were rebalanced.

    Shapes:
        logits [B, C], class_counts [C] (only for prior_tau > 0) -> confidence [B] in [1/C, 1],
        float32 (float64 for float64 input). Higher values indicate a known class.

    With one class the confidence of every sample is 1.

    Raises:
        ValueError: ``prior_tau`` is above 0 and ``class_counts`` is missing.

    Source:
        Hendrycks & Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples", arXiv 1610.02136.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0]]).log()
        >>> MSP()(logits=logits)
        tensor([0.7500])
    """

    temperature: Annotated[float, Field(gt=0), Range(0.5, 4.0, log=True)] = 1.0
    prior_tau: Annotated[float, Field(ge=0), Range(0.0, 1.0)] = 0.0

    def __call__(
        self, *, logits: torch.Tensor, class_counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        scores = without_prior(logits, class_counts, tau=self.prior_tau, method="scores/msp")
        return (scores / self.temperature).softmax(dim=1).amax(dim=1)
