"""Rotation prediction: by how many quarter turns was the image rotated?"""

from __future__ import annotations

from typing import ClassVar

import torch

from trainables.class_weights import cross_entropy_each
from trainables.methods.pretrainers import Pretrainer


class Rotation(Pretrainer):
    """Rotates every image by a random number of quarter turns and learns to tell how many.

    ``loss = mean_i CE(W x_i + b, t_i)`` with turns ``t_i`` in 0..3, one per image, to the left and
    as equally frequent in a batch as its size allows. Not for images whose meaning a turn
    changes into another's, such as 6 and 9. Crop and flip (``pretrain.augmentation: crop_flip``)
    is what the reference code does before the turn.

    Shapes:
        logits ``[B, 4]``, targets ``[B]`` int64 -> scalar; images ``[B, C, S, S]`` in and out of
        `pretext`, with targets ``[B]``.

    Lower is better; mean over the batch, 0 for an empty one. ``log 4`` is chance.

    Raises:
        ValueError: Images are not square.

    Source:
        Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations",
        arXiv:1803.07728, which turns every image in all four ways; for the long tail Yang and Xu
        2020, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning",
        arXiv:2006.07529, section 4; reference code YyzHarry/imbalanced-semi-self, followed here.

    Example:
        >>> Rotation.turned(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1])).tolist()
        [[[[2, 4], [1, 3]]]]
    """

    views: ClassVar[int] = 1

    def build(self, num_features: int) -> torch.nn.Module:
        return torch.nn.Linear(num_features, 4)

    def pretext(
        self, *, images: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        targets = (order % 4).to(images.device)
        return self.turned(images, targets), targets

    @staticmethod
    def turned(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Return images ``[B, C, S, S]``, each rotated by its number of quarter turns."""
        if images.shape[-1] != images.shape[-2]:
            raise ValueError(
                "pretrainers/rotation: images must be square to be turned; received "
                f"{images.shape[-2]} x {images.shape[-1]}"
            )
        result = images
        for number in (1, 2, 3):
            chosen = (turns == number)[:, None, None, None]
            result = torch.where(chosen, images.rot90(number, dims=(-2, -1)), result)
        return result

    def __call__(self, *, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy_each(logits, targets).sum() / max(1, len(targets))
