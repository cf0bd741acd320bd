from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.methods.splits import Split


class SubclassSplit(Split):
    """Holds out classes evenly from all superclasses: every new class has known relatives.

    The superclasses give one class each in turn, in random order, until ``num_novel`` are held out;
    every superclass keeps at least one known class.

    Args (call):
        num_classes: Number of classes.
        num_novel: How many are held out.
        superclasses: Superclass of each class.
        seed: Of both orders.

    Returns ascending class ids.

    Raises:
        ValueError: The source has no superclasses, or some superclass would keep no known class.

    Source:
        The counterpart of the superclass split (Li et al. 2022, arXiv 2209.09120): the finest
        distinction between known and new.

    Example:
        >>> split = SubclassSplit()
        >>> novel = split(num_classes=4, num_novel=2, superclasses=[0, 1, 0, 1], seed=0)
        >>> sorted([0, 1, 0, 1][c] for c in novel)  # one of each superclass
        [0, 1]
    """

    def __call__(
        self,
        *,
        num_classes: int,
        num_novel: int,
        superclasses: Sequence[int] | None,
        seed: int,
    ) -> list[int]:
        if superclasses is None:
            raise ValueError(
                "data.split=subclass: the source has no superclasses; use cifar100, add "
                "superclasses.json to the folder, or data.split=random"
            )
        rng = np.random.default_rng(seed)
        groups = [np.flatnonzero(np.equal(superclasses, s)) for s in np.unique(superclasses)]
        spare = [rng.permutation(group)[:-1] for group in groups]
        available = sum(len(group) for group in spare)
        if num_novel > available:
            raise ValueError(
                f"data.split=subclass: {len(groups)} superclasses of {num_classes} classes give at "
                f"most {available} new ones when each keeps a known one; received {num_novel}"
            )
        turns = [
            (turn, rank, int(spare[group][turn]))
            for rank, group in enumerate(rng.permutation(len(groups)))
            for turn in range(len(spare[group]))
        ]
        return sorted(chosen for _, _, chosen in sorted(turns)[:num_novel])
