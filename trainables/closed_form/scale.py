"""The factor that turns the answers of a closed-form classifier into logits."""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = -65504.0  # the lowest float16, below all ordinary logits and finite after a cast
LOWEST, HIGHEST = 1e-4, 1e6
BLOCK = 2**24  # float64 numbers in a block of work: 128 MB


def fit_scale(answers: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Return the factor s > 0 for which ``softmax(s * answers)`` has the largest likelihood.

    The answers should be out-of-fold, because those to a fit's own samples make it too sure. The
    weighted negative log-likelihood is convex in s. The labels are smoothed by ``1 / (N + 1)``, as
    by one further sample of which only the number of classes is known, so that s is finite where
    every answer is right. If no factor helps, it is the smallest that is tried.

    Args:
        answers: ``[N, C]``; larger for a likelier class.
        labels: ``[N]`` int64.
        weights: Weight of each sample ``[N]``; by default equal. Those of weight 0 do not count.

    Example:
        >>> answers = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> round(fit_scale(answers, torch.tensor([0, 0, 0, 1])), 3)  # log(.7 / .3)
        0.847
    """
    if weights is None:
        weights = torch.ones(len(labels), dtype=torch.float64, device=answers.device)
    if not len(labels) or float(weights.sum()) <= 0:
        return 1.0
    return _root(answers, labels, weights.double() / weights.double().sum())


def _root(answers: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Return the zero of the slope, by Newton steps that stay inside a shrinking bracket."""
    low, high, scale = LOWEST, HIGHEST, 1.0
    wanted = _wanted(answers, labels, weights)
    for _ in range(200):
        slope, curvature = _slope(answers, weights, wanted, scale)
        low, high = (scale, high) if slope < 0 else (low, scale)
        step = scale - slope / curvature if curvature > 0 else low
        # a step out of the bracket is replaced by the bracket's middle, in the logarithm
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - scale) <= 1e-12 * scale:
            break
        scale = following
    return scale


def _wanted(answers: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Return the weighted mean of the answers under the smoothed labels."""
    smoothing = 1.0 / (int((weights > 0).sum()) + 1)
    own = answers.gather(1, labels[:, None])[:, 0].double()
    every = answers.mean(dim=1, dtype=torch.float64)
    return float(weights @ ((1 - smoothing) * own + smoothing * every))


def _slope(answers: Tensor, weights: Tensor, wanted: float, scale: float) -> tuple[float, float]:
    """Return first and second derivative of the negative log-likelihood in the scale."""
    slope, curvature = -wanted, 0.0
    size = max(1, BLOCK // max(answers.shape[1], 1))
    for block, share in zip(answers.split(size), weights.split(size), strict=True):
        z = block.double()
        weighted = torch.softmax(scale * z, dim=1) * z
        mean = weighted.sum(dim=1)
        spread = (weighted * z).sum(dim=1) - mean.square()
        slope += float(share @ mean)
        curvature += float(share @ spread)
    return slope, curvature
