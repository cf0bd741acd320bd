from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.class_weights import class_prior, filled_counts, full_precision
from trainables.methods.method import Range
from trainables.methods.scores import Score


class LeastConfident(Score):
    """Probability of the most likely class (maximum softmax probability, MSP).

    ``confidence = max_c softmax((f - prior_tau * log pi) / temperature)_c``.

    Args:
        temperature: Softmax temperature, > 0; 1 in the paper. Above 1 the runners-up count more.
        prior_tau: How much of the log class prior is taken off the logits first, >= 0. A network
            trained on a long tail carries the prior, so it calls rare known classes unknown; 1
            removes it. Keep 0 where the classifier was already rebalanced by its logits.

    Shapes:
        logits [B, C], class_counts [C] (only for prior_tau > 0) -> confidence [B] in [1/C, 1],
        float32 (float64 for float64 input). Higher = more surely known.

    One class gives 1 for every sample.

    Raises:
        ValueError: ``prior_tau`` is above 0 and ``class_counts`` is missing.

    Source:
        Hendrycks & Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples", arXiv 1610.02136. They rank by 1 - p; here the sign is turned.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0]]).log()
        >>> LeastConfident()(logits=logits)
        tensor([0.7500])
    """

    temperature: Annotated[float, Field(gt=0), Range(0.5, 4.0, log=True)] = 1.0
    prior_tau: Annotated[float, Field(ge=0), Range(0.0, 1.0)] = 0.0

    def __call__(
        self, *, logits: torch.Tensor, class_counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        scores = full_precision(logits)
        if self.prior_tau:
            if class_counts is None:
                raise ValueError("scores/least_confident with prior_tau > 0 needs class_counts")
            log_prior = class_prior(filled_counts(class_counts)).log()
            scores = scores - self.prior_tau * log_prior.to(scores)
        return (scores / self.temperature).softmax(dim=1).amax(dim=1)
