from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.class_weights import class_prior, filled_counts, full_precision
from trainables.methods.method import Range
from trainables.methods.scores import Score


class Energy(Score):
    """Negative free energy of the logits.

    ``confidence = T * log sum_c exp((f_c - prior_tau * log pi_c) / T)``.

    Args:
        temperature: T, > 0; 1 in the paper. Fit and use share it.
        prior_tau: How much of the log class prior is taken off the logits first, >= 0. A network
            trained on a long tail carries the prior, so it calls rare known classes unknown; 1
            removes it. Keep 0 where the classifier was already rebalanced by its logits.

    Shapes:
        logits [B, C], class_counts [C] (only for prior_tau > 0) -> confidence [B], unbounded, at
        least ``max_c f_c`` (for prior_tau 0), float32 (float64 for float64 input).
        Higher = more surely known.

    Raises:
        ValueError: ``prior_tau`` is above 0 and ``class_counts`` is missing.

    Source:
        Liu et al. 2020, "Energy-based Out-of-distribution Detection", arXiv 2010.03759, eq. (4),
        sign turned: their energy is low for known samples.

    Example:
        >>> Energy()(logits=torch.tensor([[3.0, 5.0]]).log()).exp()
        tensor([8.])
    """

    temperature: Annotated[float, Field(gt=0), Range(0.5, 4.0, log=True)] = 1.0
    prior_tau: Annotated[float, Field(ge=0), Range(0.0, 1.0)] = 0.0

    def __call__(
        self, *, logits: torch.Tensor, class_counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        scores = full_precision(logits)
        if self.prior_tau:
            if class_counts is None:
                raise ValueError("scores/energy with prior_tau > 0 needs class_counts")
            log_prior = class_prior(filled_counts(class_counts)).log()
            scores = scores - self.prior_tau * log_prior.to(scores)
        return self.temperature * (scores / self.temperature).logsumexp(dim=1)
