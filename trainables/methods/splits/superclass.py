"""New classes as whole superclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from trainables.methods.splits import Split


class SuperclassSplit(Split):
    """New classes as whole superclasses, so that known and new classes share no superclass.

    In a random order of the superclasses, the first combination whose sizes add up to ``num_novel``
    is held out. The same rule splits the new classes into validation and test.

    Args (call):
        num_classes: Number of classes.
        num_novel: Number of classes to hold out.
        superclasses: Superclass of each class.
        seed: Seed of the order.

    Returns ascending class ids.

    Raises:
        ValueError: The source has no superclasses, no set of superclasses has ``num_novel`` classes
            in total, or no known class would be left.

    Source:
        Protocol of novel class discovery with low semantic similarity between known and new classes
        (Li et al. 2022, arXiv 2209.09120).

    Example:
        >>> split = SuperclassSplit()
        >>> novel = split(num_classes=4, num_novel=2, superclasses=[0, 1, 0, 1], seed=0)
        >>> novel in ([0, 2], [1, 3])
        True
    """

    whole_superclasses: ClassVar[bool] = True

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
                "data.split=superclass: the source has no superclasses; use cifar100, add "
                "superclasses.json to the folder, or set data.split=random"
            )
        order = [int(s) for s in np.random.default_rng(seed).permutation(np.unique(superclasses))]
        sizes = [list(superclasses).count(s) for s in order]
        chosen = self._first_subset(sizes, num_novel)
        if chosen is None or num_novel >= num_classes:
            raise ValueError(
                f"data.split=superclass: no set of superclasses has {num_novel} classes in total; "
                f"sizes of the {len(sizes)} superclasses: {sorted(sizes)}; change "
                "data.novel_classes or data.validation_novel_classes"
            )
        held = {order[position] for position in chosen}
        return [c for c in range(num_classes) if superclasses[c] in held]

    @staticmethod
    def _first_subset(sizes: list[int], total: int) -> list[int] | None:
        """Return positions whose sizes add up to ``total``, preferring early positions."""
        # reached[t] are positions, among those seen so far, whose sizes add up to t
        reached: dict[int, list[int]] = {0: []}
        for position, size in enumerate(sizes):
            for sum_, positions in list(reached.items()):
                if sum_ + size <= total:
                    reached.setdefault(sum_ + size, [*positions, position])
        return reached.get(total)
