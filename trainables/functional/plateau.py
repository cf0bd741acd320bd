"""How often a learning rate is reduced because a figure stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Iterable

THRESHOLD = 1e-4  # an improvement below this share of the best value is none


def reductions(values: Iterable[float], *, patience: int, higher_is_better: bool) -> int:
    """Return after how many of the values so far the learning rate was reduced.

    It is reduced after more than ``patience`` values in a row that are no better than the best
    one; then the count of such values starts anew, the best value stays.

    Args:
        values: One per epoch, none negative.
        patience: Values without improvement that are borne.
        higher_is_better: As of an accuracy, not of a loss.

    Source:
        `torch.optim.lr_scheduler.ReduceLROnPlateau`, with its defaults.

    Example:
        >>> reductions([1.0, 0.5, 0.6, 0.5, 0.7], patience=1, higher_is_better=False)
        1
    """
    sign = 1.0 if higher_is_better else -1.0
    best, bad, found = -math.inf, 0, 0
    for value in values:
        better = sign * value > best + THRESHOLD * abs(best) if math.isfinite(best) else True
        best, bad = (sign * value, 0) if better else (best, bad + 1)
        if bad > patience:
            found, bad = found + 1, 0
    return found
