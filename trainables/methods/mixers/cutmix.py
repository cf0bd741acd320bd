"""CutMix."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.class_weights import begun
from trainables.methods.method import Choice, Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.mixing import Mix, draw_partners, draw_share, paired


class CutMix(Mixer):
    """Pastes a box of another image over each image; labels share by area.

    A box of sides ``H sqrt(1 - a)`` and ``W sqrt(1 - a)`` around a uniform centre, cut off at the
    borders; ``loss = s L(y) + (1 - s) L(y[p])`` with s the area outside of the box that is left,
    one ``a ~ Beta(alpha, alpha)``, one box and one permutation p per batch.

    Args:
        alpha: In (0, 100]. Default 1.
        probability: Chance that a batch is mixed, in (0, 1]. Default 0.5, the reference code's for
            CIFAR; 1 for ImageNet.
        until: Fraction of training with mixing, in (0, 1]. Default 1.

    Shapes:
        images ``[B, 3, H, W]`` (their size is read), labels ``[B]`` int64, progress in [0, 1] ->
        `trainables.mixing.Mix`, or ``None`` for a batch that stays as it is.

    Source:
        Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
        Localizable Features", arXiv:1905.04899, equations 1 and 2; reference code
        clovaai/CutMix-PyTorch.

    Example:
        >>> CutMix.cut(share=0.75, size=(8, 8), centre=(0, 4))  # side 4, half of it outside
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
        share: float, size: tuple[int, int], centre: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """Return the box ``(top, bottom, left, right)``, within the image."""
        edges = []
        for length, middle in zip(size, centre, strict=True):
            half = int(length * math.sqrt(1 - share)) // 2
            edges += [max(0, middle - half), min(length, middle + half)]
        return edges[0], edges[1], edges[2], edges[3]

    @staticmethod
    def kept(box: tuple[int, int, int, int], size: tuple[int, int]) -> float:
        """Return the share of an image's area that lies outside of a box."""
        top, bottom, left, right = box
        return 1 - (bottom - top) * (right - left) / (size[0] * size[1])
