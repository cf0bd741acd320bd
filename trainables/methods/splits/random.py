from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.methods.splits import Split


class RandomSplit(Split):
    """Holds out classes drawn at random, whatever their superclass.

    Args (call):
        num_classes: Number of classes of the source.
        num_novel: How many are held out.
        superclasses: Not read.
        seed: Of the draw.

    Returns ascending class ids.

    Source:
        The usual protocol of novel class discovery (Han et al. 2019, arXiv 1908.09884), with a
        random choice in place of the last classes.

    Example:
        >>> RandomSplit()(num_classes=10, num_novel=10, superclasses=None, seed=0)
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __call__(
        self,
        *,
        num_classes: int,
        num_novel: int,
        superclasses: Sequence[int] | None,
        seed: int,
    ) -> list[int]:
        order = np.random.default_rng(seed).permutation(num_classes)
        return sorted(int(c) for c in order[:num_novel])
