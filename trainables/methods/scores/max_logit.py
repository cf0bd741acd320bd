from __future__ import annotations

import torch

from trainables.class_weights import full_precision
from trainables.methods.scores import Score


class MaxLogit(Score):
    """The largest logit.

    ``confidence = max_c f_c``. Unlike the largest probability it sees the length of the feature,
    and does not suffer from similar classes sharing the probability.

    Shapes:
        logits [B, C] -> confidence [B], unbounded, float32 (float64 for float64 input).
        Higher = more surely known.

    Source:
        Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings",
        arXiv 1911.11132, sign turned.

    Example:
        >>> MaxLogit()(logits=torch.tensor([[1.0, 3.0], [0.0, -2.0]]))
        tensor([3., 0.])
    """

    def __call__(self, *, logits: torch.Tensor) -> torch.Tensor:
        return full_precision(logits).amax(dim=1)
