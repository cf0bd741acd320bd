"""Manifold mixup."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from trainables.class_weights import begun
from trainables.methods.method import Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.mixing import Mix, draw_partners, draw_share, paired


class ManifoldMixup(Mixer):
    """Mixup of what the trunk makes of the images: its features, or a hidden layer's maps.

    ``h~ = a h + (1 - a) h[p]``, ``loss = a L(y) + (1 - a) L(y[p])``, one ``a ~ Beta(alpha, alpha)``
    and one permutation p per batch.

    Args:
        alpha: In (0, 100]. Default 1, as in the long-tailed code; 2 in the paper.
        until: Fraction of training with mixing, in (0, 1]. Default 1.
        variant: ``official`` (default) is the long-tailed code, which always mixes the pooled
            features; ``paper`` draws per batch the images or one of the trunk's hidden layers, each
            but the last, alike.

    Shapes:
        labels ``[B]`` int64, progress in [0, 1] -> `trainables.mixing.Mix`, or ``None`` after
        ``until``.

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
