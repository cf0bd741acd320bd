"""The verdict that an image's class is not known: the one place that compares with a threshold."""

from __future__ import annotations

from torch import Tensor


def called_unknown(confidence: Tensor, threshold: float | Tensor) -> Tensor:
    """Return which images ``[N]`` bool are called unknown: those less sure than their threshold.

    Args:
        confidence: ``[N]``.
        threshold: Of all images, or of each image ``[N]``; see `threshold_of_each`.

    An image whose confidence is NaN is unknown.

    Example:
        >>> import torch
        >>> called_unknown(torch.tensor([0.1, 0.5]), 0.5).tolist()
        [True, False]
        >>> called_unknown(torch.tensor([0.1, 0.5]), torch.tensor([0.0, 0.9])).tolist()
        [False, True]
    """
    return ~(confidence >= threshold)


def threshold_of_each(
    threshold: float, class_thresholds: Tensor | None, predicted: Tensor
) -> float | Tensor:
    """Return the threshold of each image ``[N]``, or the one of all.

    Args:
        threshold: Of all images where classes have none of their own.
        class_thresholds: Of the images that are taken for each class ``[C]``, or ``None``.
        predicted: Index of the largest output of each image ``[N]`` int64.

    Example:
        >>> import torch
        >>> threshold_of_each(0.5, torch.tensor([0.2, 0.7]), torch.tensor([1, 0])).tolist()
        [0.699999988079071, 0.20000000298023224]
    """
    return threshold if class_thresholds is None else class_thresholds[predicted]
