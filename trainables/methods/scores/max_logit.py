"""Maximum logit."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import full_precision
from trainables.methods.scores import Score


class MaxLogit(Score):
    """Maximum logit.

    ``confidence = max_c f_c``. Unlike the maximum softmax probability, the maximum logit depends on
    the norm of the feature and is not lowered by similar classes.

    Shapes:
        logits [B, C] -> confidence [B], unbounded, float32 (float64 for float64 input).
        Higher values indicate a known class.

    Source:
        Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings",
        arXiv 1911.11132, with the opposite sign.

    Example:
        >>> MaxLogit()(logits=torch.tensor([[1.0, 3.0], [0.0, -2.0]]))
        tensor([3., 0.])
    """

    def __call__(self, *, logits: torch.Tensor) -> torch.Tensor:
        return full_precision(logits).amax(dim=1)
