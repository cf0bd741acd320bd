"""Numbers of labelled and unlabelled images of each known class."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from trainables.data.data_settings import Data
from trainables.data.source_cache import Integers


def labelled_sizes(data: Data, available: Integers) -> Integers:
    """Return the size of each known class ``[C]`` under the profile of ``data``.

    Args:
        data: ``profile`` and ``max_per_class``.
        available: Number of images available in each class ``[C]``.
    """
    if data.max_per_class is not None:
        available = np.minimum(available, data.max_per_class)
    sizes: Integers = data.profile.call_with(
        {
            "num_classes": len(available),
            "max_count": int(available.min()),  # every class has that many: exact ratios
            "available": available,
        }
    )
    return sizes


def unlabelled_sizes(labelled: Integers, *, ratio: float, imbalance_factor: float) -> Integers:
    """Return the number of unlabelled images of each class ``[C]``, exponentially decreasing.

    With N labelled images, the total is ``T = floor(ratio * N)``. The profile
    ``m_c = floor(floor(T / C) * (1 / imbalance_factor) ** (c / (C - 1)))`` is scaled to the total
    by ``u_c = floor(m_c * T / sum m)``.

    Args:
        labelled: Labelled images per class ``[C]``.
        ratio: Number of unlabelled images over that of labelled images; 5 in the paper.
        imbalance_factor: Imbalance factor of the unlabelled images (rho_U), at least 1; 1 to 100 in
            the paper.

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
    """Return the largest ``max_per_class`` that leaves enough unlabelled images, or 0.

    Args:
        data: ``profile`` and ``unlabelled``.
        available: Number of labelled and unlabelled images available in each class ``[C]``.
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
