"""CutMix."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import begun
from trainables.methods.method import Choice, Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.transforms.mixing import Mix, draw_partners, draw_share, paired


class CutMix(Mixer):
    """CutMix: a box of another image replaces part of each image; labels are mixed by area.

    The box has sides ``H sqrt(1 - a)`` and ``W sqrt(1 - a)`` and a uniformly drawn center, and is
    clipped at the borders. ``loss = s L(y) + (1 - s) L(y[p])``, where s is the fraction of the area
    outside the box. One ``a ~ Beta(alpha, alpha)``, one box and one permutation p are drawn per
    batch.

    Args:
        alpha: Parameter of the Beta distribution, in (0, 100]. Default 1.
        probability: Probability that a batch is mixed, in (0, 1]. Default 0.5, the reference code's
            for CIFAR; 1 for ImageNet.
        until: Fraction of training with mixing, in (0, 1]. Default 1.

    Shapes:
        images ``[B, 3, H, W]`` (only the size is used), labels ``[B]`` int64, progress in [0, 1] ->
        `trainables.transforms.mixing.Mix`, or ``None`` for an unmixed batch.

    Source:
        Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
        Localizable Features", arXiv:1905.04899, equations 1 and 2; reference code
        clovaai/CutMix-PyTorch.

    Example:
        >>> CutMix.cut(share=0.75, size=(8, 8), center=(0, 4))  # side 4, half of it outside
        (0, 2, 2, 6)
    """

    alpha: Annotated[Alpha, Range(0.1, 2.0, log=True)] = 1.0
    probability: Annotated[float, Field(gt=0, le=1), Choice((0.5, 1.0))] = 0.5
    until: Until = 1.0

    def __call__(
        self,
        *,
        images: torch.Tensor,
        labels: torch.Tensor,
        progress: float,
        generator: torch.Generator,
    ) -> Mix | None:
        chance = float(torch.rand((), generator=generator))
        if begun(self.until, progress) or chance >= self.probability:
            return None
        share = draw_share(self.alpha, generator)
        partner = draw_partners(labels, generator)
        height, width = images.shape[2:]
        row, column = (int(torch.randint(n, (), generator=generator)) for n in (height, width))
        box = self.cut(share, (height, width), (row, column))
        return paired(labels, self.kept(box, (height, width)), partner)._replace(box=box)

    @staticmethod
    def cut(
        share: float, size: tuple[int, int], center: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """Return the box ``(top, bottom, left, right)``, clipped to the image."""
        edges = []
        for length, middle in zip(size, center, strict=True):
            half = int(length * math.sqrt(1 - share)) // 2
            edges += [max(0, middle - half), min(length, middle + half)]
        return edges[0], edges[1], edges[2], edges[3]

    @staticmethod
    def kept(box: tuple[int, int, int, int], size: tuple[int, int]) -> float:
        """Return the fraction of the image's area outside the box."""
        top, bottom, left, right = box
        return 1 - (bottom - top) * (right - left) / (size[0] * size[1])
