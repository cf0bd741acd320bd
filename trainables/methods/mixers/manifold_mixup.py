"""Manifold mixup."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from trainables.functional.class_weights import begun
from trainables.methods.method import Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.transforms.mixing import Mix, draw_partners, draw_share, paired


class ManifoldMixup(Mixer):
    """Mixup of the trunk's features or of the maps of a hidden layer.

    ``h~ = a h + (1 - a) h[p]`` and ``loss = a L(y) + (1 - a) L(y[p])``. One ``a ~ Beta(alpha,
    alpha)`` and one permutation p are drawn per batch.

    Args:
        alpha: Parameter of the Beta distribution, in (0, 100]. Default 1, as in the long-tailed
            code; 2 in the paper.
        until: Fraction of training with mixing, in (0, 1]. Default 1.
        variant: ``official`` (default) mixes the pooled features, as the long-tailed code;
            ``paper`` draws for each batch, with equal probability, the images or a hidden layer of
            the trunk except the last.

    Shapes:
        labels ``[B]`` int64, progress in [0, 1] -> `trainables.transforms.mixing.Mix`, or ``None``
        after ``until``.

    Source:
        Verma et al. 2019, "Manifold Mixup: Better Representations by Interpolating Hidden States",
        arXiv:1806.05236; reference code vikasverma1077/manifold_mixup (``paper``) and
        zhangyongshun/BagofTricks-LT (``official``).

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> mix = ManifoldMixup()(labels=torch.tensor([0, 1]), progress=0.0, generator=draw)
        >>> mix.place
        'features'
    """

    alpha: Annotated[Alpha, Range(0.1, 2.0, log=True)] = 1.0
    until: Until = 1.0
    variant: Literal["paper", "official"] = "official"

    def __call__(
        self, *, labels: torch.Tensor, progress: float, generator: torch.Generator
    ) -> Mix | None:
        if begun(self.until, progress):
            return None
        share = draw_share(self.alpha, generator)
        mix = paired(labels, share, draw_partners(labels, generator))
        if self.variant == "official":
            return mix._replace(place="features")
        return mix._replace(place="hidden", depth=float(torch.rand((), generator=generator)))
