"""How many images each known class has: labelled ones, and unlabelled ones beside them."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from trainables.experiment import Data
from trainables.source_cache import Integers


def labelled_sizes(data: Data, available: Integers) -> Integers:
    """Return the size of each known class ``[C]`` under the profile of ``data``.

    Args:
        data: ``profile`` and ``max_per_class``.
        available: Images that each class could have ``[C]``.
    """
    if data.max_per_class is not None:
        available = np.minimum(available, data.max_per_class)
    sizes: Integers = data.profile.supplied(
        {
            "num_classes": len(available),
            "max_count": int(available.min()),  # so that the profile's ratios hold exactly
            "available": available,
        }
    )
    return sizes


def unlabelled_sizes(labelled: Integers, *, ratio: float, imbalance_factor: float) -> Integers:
    """Return how many unlabelled images each class gets ``[C]``, falling exponentially.

    With N labelled images, the total is ``T = floor(ratio * N)``; the profile
    ``m_c = floor(floor(T / C) * (1 / imbalance_factor) ** (c / (C - 1)))`` is scaled to it:
    ``u_c = floor(m_c * T / sum m)``.

    Args:
        labelled: Labelled images per class ``[C]``.
        ratio: Unlabelled images over labelled ones; the paper takes 5.
        imbalance_factor: Of the unlabelled images (rho_U), at least 1; the paper takes 1 to 100.

    Source:
        Yang and Xu 2020, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning",
        arXiv:2006.07529, section 3; reference code YyzHarry/imbalanced-semi-self,
        ``imbalance_cifar.py``: equal counts.

    Example:
        >>> unlabelled_sizes(np.array([60, 30, 10]), ratio=5, imbalance_factor=4.0).tolist()
        [286, 143, 70]
    """
    total = int(ratio * int(labelled.sum()))
    exponents = np.arange(len(labelled)) / max(len(labelled) - 1, 1)
    shape = (total // len(labelled) * (1.0 / imbalance_factor) ** exponents).astype(np.int64)
    return (shape * (total / max(int(shape.sum()), 1))).astype(np.int64)


def largest_that_fits(data: Data, available: Integers) -> int:
    """Return the largest ``max_per_class`` that leaves each class its unlabelled images, or 0.

    Args:
        data: ``profile`` and ``unlabelled``.
        available: Images that each class has for both ``[C]``.
    """

    def too_many(limit: int) -> bool:
        bounded = data.model_copy(update={"max_per_class": limit})
        sizes = labelled_sizes(bounded, available)
        settings = data.unlabelled
        more = unlabelled_sizes(
            sizes, ratio=settings.ratio, imbalance_factor=settings.imbalance_factor
        )
        return bool((sizes + more > available).any())

    return bisect_right(range(1, int(available.max()) + 1), False, key=too_many)
