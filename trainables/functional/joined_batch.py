"""Two batches of one training step, joined to one by a method of ``branches``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Joined(NamedTuple):
    """Two batches joined for the head and the loss.

    The loss is ``share * L(labels) + (1 - share) * L(second_labels)``.

    Args:
        features: Inputs of the head ``[B, D]``.
        labels: First label of each row ``[B]``.
        second_labels: Second label ``[B]``.
        share: Weight of the first labels, in [0, 1].
        compared: Features ``[N, D]``; a contrastive loss compares their projections.
        compared_labels: Labels ``[N]`` of ``compared``.
        observed: Features ``[N, D]`` as in a prediction, for the running mean of the features.
    """

    features: Tensor
    labels: Tensor
    second_labels: Tensor
    share: float
    compared: Tensor
    compared_labels: Tensor
    observed: Tensor


def cumulative_share(progress: float, *, reach: float = 1.0) -> float:
    """Return ``1 - (reach * progress)^2``, the weight of the conventional (feature) branch.

    Args:
        progress: Fraction of training done, in [0, 1].
        reach: Values below 1 leave the conventional branch a positive weight at the end.

    Example:
        >>> cumulative_share(0.5), cumulative_share(1.0)
        (0.75, 0.0)
    """
    return 1.0 - (reach * progress) ** 2
