"""Energy score."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import without_prior
from trainables.methods.method import Range
from trainables.methods.scores import Score


class Energy(Score):
    """Negative free energy of the logits.

    ``confidence = T * log sum_c exp((f_c - prior_tau * log pi_c) / T)``.

    Args:
        temperature: T, > 0; 1 in the paper.
        prior_tau: Factor of the log class prior that is subtracted from the logits, >= 0. Logits of
            long-tailed training contain the prior, which lowers the confidence of rare known
            classes; 1 removes the prior. Keep 0 if the classifier's logits were rebalanced.

    Shapes:
        logits [B, C], class_counts [C] (only for prior_tau > 0) -> confidence [B], unbounded, at
        least ``max_c f_c`` (for prior_tau 0), float32 (float64 for float64 input).
        Higher values indicate a known class.

    Raises:
        ValueError: ``prior_tau`` is above 0 and ``class_counts`` is missing.

    Source:
        Liu et al. 2020, "Energy-based Out-of-distribution Detection", arXiv 2010.03759, eq. (4),
        with the opposite sign.

    Example:
        >>> Energy()(logits=torch.tensor([[3.0, 5.0]]).log()).exp()
        tensor([8.])
    """

    temperature: Annotated[float, Field(gt=0), Range(0.5, 4.0, log=True)] = 1.0
    prior_tau: Annotated[float, Field(ge=0), Range(0.0, 1.0)] = 0.0

    def __call__(
        self, *, logits: torch.Tensor, class_counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        scores = without_prior(logits, class_counts, tau=self.prior_tau, method="scores/energy")
        return self.temperature * (scores / self.temperature).logsumexp(dim=1)
