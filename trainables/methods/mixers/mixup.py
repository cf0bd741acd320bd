"""Mixup."""

from __future__ import annotations

from typing import Annotated

import torch

from trainables.functional.class_weights import begun
from trainables.methods.method import Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.transforms.mixing import Mix, draw_partners, draw_share, paired


class Mixup(Mixer):
    """Mixup, weighted means of two images and their labels.

    ``x~ = a x + (1 - a) x[p]`` and ``loss = a L(y) + (1 - a) L(y[p])``. One ``a ~ Beta(alpha,
    alpha)`` and one permutation p are drawn per batch.

    Args:
        alpha: Parameter of the Beta distribution, in (0, 100]. Default 1 (uniform), as in the
            reference code and in long-tailed codes.
        until: Fraction of training with mixing, in (0, 1]; the last part fine-tunes on unmixed
            images, as in Bag of Tricks. Default 1.

    Shapes:
        labels ``[B]`` int64, progress in [0, 1] -> `trainables.transforms.mixing.Mix`, or ``None``
        after ``until``.

    Source:
        Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; reference
        code facebookresearch/mixup-cifar10. Zhang et al. 2021, "Bag of Tricks for Long-Tailed
        Visual Recognition", AAAI, section 4.1, for the fine-tuning after mixup.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> mix = Mixup()(labels=torch.tensor([0, 1]), progress=0.0, generator=draw)
        >>> 0 < mix.share < 1, mix.share == mix.label_share
        (True, True)
    """

    alpha: Annotated[Alpha, Range(0.1, 2.0, log=True)] = 1.0
    until: Until = 1.0

    def __call__(
        self, *, labels: torch.Tensor, progress: float, generator: torch.Generator
    ) -> Mix | None:
        if begun(self.until, progress):
            return None
        share = draw_share(self.alpha, generator)
        return paired(labels, share, draw_partners(labels, generator))
