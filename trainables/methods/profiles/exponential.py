"""Exponentially decreasing class sizes."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from trainables.methods.profiles import Profile


class Exponential(Profile):
    """Class sizes that decrease exponentially from the first class to the last.

    ``n_c = floor(n_max * (1 / imbalance_factor) ** (c / (C - 1)))``

    Args:
        imbalance_factor: Size of the largest class over that of the smallest, at least 1; 10 to 200
            in papers. The default 20 is for small data sets.

    Each class keeps at least one image. A single class keeps all its images.

    Source:
        Cui et al. 2019, arXiv 1901.05555, section 5.1; reference code kaidic/LDAM-DRW
        ``imbalance_cifar.py``, with equal counts (the reference code divides by zero for one
        class).

    Example:
        >>> Exponential(imbalance_factor=100.0)(num_classes=3, max_count=1000).tolist()
        [1000, 100, 10]
    """

    imbalance_factor: Annotated[float, Field(ge=1)] = 20.0

    def __call__(self, *, num_classes: int, max_count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        exponents = np.arange(num_classes) / max(num_classes - 1, 1)
        counts = max_count * (1.0 / self.imbalance_factor) ** exponents
        return np.maximum(counts.astype(np.int64), min(max_count, 1))
