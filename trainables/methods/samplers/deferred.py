"""Deferred re-sampling (DRS)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import begun
from trainables.methods.method import Choice, Range
from trainables.methods.samplers import Sampler
from trainables.methods.samplers.class_balanced import ClassBalanced
from trainables.methods.samplers.instance_balanced import InstanceBalanced


class Deferred(Sampler):
    """Deferred re-sampling: instance-balanced first, a base sampler in the last part of training.

    As in the reference code, the base gets the progress of the whole training, so that
    ``progressively_balanced`` begins at an intermediate mixture.

    Args:
        base: Sampler of the last part. Default class_balanced.
        start: Fraction of instance-balanced epochs, in [0, 1]. Default 0.8, which is epoch 160 of
            200, counted from 0.

    Shapes:
        labels ``[N]`` int64, progress in [0, 1], epochs T (by default, progress is the fraction of
        completed epochs) -> result of the base; before ``start``, probability ``[N]``.

    Source:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        arXiv:1906.07413, section 3.3 and appendix; reference code kaidic/LDAM-DRW and
        zhangyongshun/BagofTricks-LT.

    Example:
        >>> labels, sampler = torch.tensor([0, 0, 0, 1]), Deferred()
        >>> sampler(labels=labels, progress=0.5)
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
        >>> sampler(labels=labels, progress=1.0)
        tensor([0.1667, 0.1667, 0.1667, 0.5000], dtype=torch.float64)
    """

    base: Annotated[
        Sampler, Choice(("class_balanced", "class_aware", "progressively_balanced"))
    ] = ClassBalanced()
    start: Annotated[float, Field(ge=0, le=1), Range(0.5, 0.95)] = 0.8

    def __call__(
        self,
        *,
        labels: torch.Tensor,
        progress: float,
        epochs: int | None = None,
        class_counts: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        # progress is 1 in the last of T epochs, when the completed fraction is (T - 1) / T
        done = progress if epochs is None else progress * (epochs - 1) / epochs
        sampler = self.base if begun(self.start, done) else InstanceBalanced()
        offered = {
            "labels": labels,
            "progress": progress,
            "epochs": epochs,
            "class_counts": class_counts,
            "generator": generator,
        }
        drawn: torch.Tensor = sampler.call_with(
            {name: value for name, value in offered.items() if value is not None}
        )
        return drawn
