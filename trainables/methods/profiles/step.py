"""Two class sizes, large and small."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from trainables.methods.profiles import Profile


class Step(Profile):
    """Two class sizes: all images for the first classes, few images for the others.

    ``floor(C * (1 - minority_fraction))`` classes keep ``n_max`` images, the others
    ``floor(n_max / imbalance_factor)``. With an odd number of classes and the fraction 1/2, the
    middle class is small.

    Args:
        imbalance_factor: Size of a large class over that of a small class, at least 1; 10 to 200 in
            papers. The default 20 is for small data sets.
        minority_fraction: Fraction of small classes, in (0, 1) (mu in Buda et al.); 1/2 in Cao et
            al.

    Each class keeps at least one image, and the first class keeps all images.

    Source:
        Buda, Maki, Mazurowski 2018, arXiv 1710.05381, section 3.1; Cao et al. 2019, arXiv
        1906.07413. Reference code kaidic/LDAM-DRW ``imbalance_cifar.py``, with equal counts for an
        even number of classes; for an odd number it has no count for the last class.

    Example:
        >>> Step(imbalance_factor=10.0)(num_classes=5, max_count=100).tolist()
        [100, 100, 10, 10, 10]
    """

    imbalance_factor: Annotated[float, Field(ge=1)] = 20.0
    minority_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def __call__(self, *, num_classes: int, max_count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        # the epsilon compensates the rounding of 1 - fraction (10 * (1 - 0.9) is 0.99...)
        large = max(int(num_classes * (1 - self.minority_fraction) + 1e-9), 1)
        small = max(int(max_count * (1.0 / self.imbalance_factor)), min(max_count, 1))
        counts = np.full(num_classes, small, dtype=np.int64)
        counts[:large] = max_count
        return counts
