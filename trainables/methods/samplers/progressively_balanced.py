"""Progressively balanced sampling."""

from __future__ import annotations

from typing import Literal

import torch

from trainables.functional.class_weights import sample_probability
from trainables.methods.samplers import Sampler


class ProgressivelyBalanced(Sampler):
    """Progressively balanced sampling, from instance-balanced to class-balanced during training.

    ``p_i = q_{y_i} / n_{y_i}`` with ``q_c = (1 - a) n_c / N + a / K`` and K the number of classes
    that occur. In epoch e = 0 .. T - 1 of T, with progress ``e / (T - 1)``,
    ``paper``: ``a = e / (T - 1)``, from 0 to 1; ``official``: ``a = (e + 1) / T``.

    Args:
        variant: One of the forms above. Default ``paper``, as facebookresearch/classifier-
            balancing; ``official`` as zhangyongshun/BagofTricks-LT.

    Shapes:
        labels ``[N]`` int64, progress in [0, 1], epochs T (for ``official``; without epochs, a is
        the progress) -> probability ``[N]`` float64, summing to one.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, equation 2.

    Example:
        >>> sampler = ProgressivelyBalanced()
        >>> sampler(labels=torch.tensor([0, 0, 0, 1]), progress=1.0)  # class-balanced
        tensor([0.1667, 0.1667, 0.1667, 0.5000], dtype=torch.float64)
    """

    variant: Literal["paper", "official"] = "paper"

    def __call__(
        self, *, labels: torch.Tensor, progress: float, epochs: int | None = None
    ) -> torch.Tensor:
        mixture = progress
        if self.variant == "official" and epochs is not None:
            mixture = (progress * (epochs - 1) + 1) / epochs
        return sample_probability(
            labels, lambda counts: (1 - mixture) * counts / counts.sum() + mixture / counts.numel()
        )
