"""Mixup."""

from __future__ import annotations

from typing import Annotated

import torch

from trainables.class_weights import begun
from trainables.methods.method import Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.mixing import Mix, draw_partners, draw_share, paired


class Mixup(Mixer):
    """Trains on weighted means of two images and of their labels.

    ``x~ = a x + (1 - a) x[p]``, ``loss = a L(y) + (1 - a) L(y[p])``, one ``a ~ Beta(alpha, alpha)``
    and one permutation p per batch.

    Args:
        alpha: In (0, 100]. Default 1, uniform, as in the reference code and its long-tailed users.
        until: Fraction of training with mixing, in (0, 1]; the rest fine-tunes on plain images (Bag
            of Tricks). Default 1.

    Shapes:
        labels ``[B]`` int64, progress in [0, 1] -> `trainables.mixing.Mix`, or ``None`` after
        ``until``.

    Source:
        Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; reference
        code facebookresearch/mixup-cifar10. Fine-tuning after it: Zhang et al. 2021, "Bag of Tricks
        for Long-Tailed Visual Recognition", AAAI, section 4.1.

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
