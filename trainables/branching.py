"""Two batches in one step: what a method of the shelf ``branches`` makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Joined(NamedTuple):
    """Two batches as the head and the loss see them.

    The loss is ``share * L(labels) + (1 - share) * L(second_labels)``.

    Args:
        features: What the head gets ``[B, D]``.
        labels: First label of each row ``[B]``.
        second_labels: Second label ``[B]``.
        share: Weight of the first labels, in [0, 1].
        compared: Features ``[N, D]`` of the projections that a contrastive loss compares.
        compared_labels: Their labels ``[N]``.
        observed: Features ``[N, D]`` as they are in a prediction, for the running mean.
    """

    features: Tensor
    labels: Tensor
    second_labels: Tensor
    share: float
    compared: Tensor
    compared_labels: Tensor
    observed: Tensor


def cumulative_share(progress: float, *, reach: float = 1.0) -> float:
    """Return ``1 - (reach * progress)^2``: what features get of a loss; the classifier the rest.

    Args:
        progress: Fraction of training done, in [0, 1].
        reach: Below 1 the features keep a part to the end.

    Example:
        >>> cumulative_share(0.5), cumulative_share(1.0)
        (0.75, 0.0)
    """
    return 1.0 - (reach * progress) ** 2
