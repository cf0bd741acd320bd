"""Class sizes of naturally long-tailed data."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from trainables.methods.profiles import Profile


class Natural(Profile):
    """The same fraction of the images of each class, for data with naturally long-tailed classes.

    ``n_c = floor(keep * available_c)``, at least 1. Counts are in the order of the data's classes,
    so they may increase.

    Args:
        keep: Fraction of each class for training, in (0, 1]. Default 0.9; the remaining images are
            the known images of the stream.

    Shapes:
        available: int64 ``[C]``, training images per known class.

    Source:
        The natural distribution, as in iNaturalist (Van Horn et al. 2018, arXiv 1707.06642).

    Example:
        >>> import numpy as np
        >>> Natural()(num_classes=3, available=np.array([1, 900, 30])).tolist()
        [1, 810, 27]
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.9

    def __call__(
        self, *, num_classes: int, available: np.ndarray[Any, np.dtype[np.int64]]
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        # the epsilon compensates the rounding of the product (0.7 * 10 is 6.99...)
        kept = (available[:num_classes] * self.keep + 1e-9).astype(np.int64)
        return np.maximum(kept, np.minimum(available[:num_classes], 1))
