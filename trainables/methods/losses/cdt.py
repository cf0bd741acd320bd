"""Class-dependent temperatures."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    cross_entropy_each,
    filled_counts,
    full_precision,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class CDT(Loss):
    """Cross-entropy on logits divided by class-dependent temperatures, higher for rarer classes.

    ``loss = mean_i CE(z_i / a, y_i)`` with ``a_c = (n_max / n_c)^gamma``. A rare class must reach
    larger logits in training, which compensates for the deviation of its features at test time.
    Predictions use the undivided logits.

    Args:
        gamma: Strength, >= 0; 0 is cross-entropy. Default 0.2.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, class_weights ``[C]`` or
        none -> scalar.

    Lower is better; mean over the batch. A class without samples has the temperature of the rarest
    class.

    Source:
        Ye et al. 2020, "Identifying and Compensating for Feature Deviation in Imbalanced Deep
        Learning", arXiv:2001.01385, equation 4; reference code zhangyongshun/BagofTricks-LT.

    Example:
        >>> CDT(gamma=0.5)(  # temperatures 1 and 2: -log softmax([0, 2])[1] = log(1 + e^-2)
        ...     logits=torch.tensor([[0.0, 4.0]]),
        ...     labels=torch.tensor([1]),
        ...     class_counts=torch.tensor([4, 1]),
        ... )
        tensor(0.1269)
    """

    gamma: Annotated[float, Field(ge=0, le=2), Range(0.05, 0.5)] = 0.2

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        counts = filled_counts(class_counts)
        temperature = (counts.max() / counts).pow(self.gamma).to(logits)
        return weighted_mean(
            cross_entropy_each(logits / temperature, labels), labels, class_weights
        )
