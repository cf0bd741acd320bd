"""New classes from all superclasses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.methods.splits import Split


class SubclassSplit(Split):
    """New classes evenly from all superclasses, so that each new class has known siblings.

    In random order, one class of each superclass after the other is held out until ``num_novel``
    are held out; each superclass keeps at least one known class.

    Args (call):
        num_classes: Number of classes.
        num_novel: Number of classes to hold out.
        superclasses: Superclass of each class.
        seed: Seed of the orders of superclasses and classes.

    Returns ascending class ids.

    Raises:
        ValueError: The source has no superclasses, or a superclass would keep no known class.

    Source:
        The counterpart of the superclass split (Li et al. 2022, arXiv 2209.09120), with the finest
        distinction between known and new classes.

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
                "superclasses.json to the folder, or set data.split=random"
            )
        rng = np.random.default_rng(seed)
        groups = [np.flatnonzero(np.equal(superclasses, s)) for s in np.unique(superclasses)]
        spare = [rng.permutation(group)[:-1] for group in groups]
        available = sum(len(group) for group in spare)
        if num_novel > available:
            raise ValueError(
                f"data.split=subclass: {len(groups)} superclasses of {num_classes} classes give at "
                f"most {available} new classes if each keeps a known class; received {num_novel}"
            )
        turns = [
            (turn, rank, int(spare[group][turn]))
            for rank, group in enumerate(rng.permutation(len(groups)))
            for turn in range(len(spare[group]))
        ]
        return sorted(chosen for _, _, chosen in sorted(turns)[:num_novel])
