"""Equal class sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.methods.profiles import Profile


class Balanced(Profile):
    """The same number of images in each class.

    ``n_c = n_max``

    Source:
        None: the balanced reference of long-tailed studies.

    Example:
        >>> Balanced()(num_classes=3, max_count=5).tolist()
        [5, 5, 5]
    """

    def __call__(self, *, num_classes: int, max_count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.full(num_classes, max_count, dtype=np.int64)
