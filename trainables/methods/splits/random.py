"""Random new classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.methods.splits import Split


class RandomSplit(Split):
    """Random new classes, independent of superclasses.

    Args (call):
        num_classes: Number of classes of the source.
        num_novel: Number of classes to hold out.
        superclasses: Ignored.
        seed: Seed of the random choice.

    Returns ascending class ids.

    Source:
        The usual protocol of novel class discovery (Han et al. 2019, arXiv 1908.09884), with random
        classes instead of the last classes.

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
