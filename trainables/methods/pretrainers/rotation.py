"""Rotation prediction."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainables.functional.class_weights import cross_entropy_each
from trainables.methods.pretrainers import Pretrainer


class Rotation(Pretrainer):
    """Rotation prediction, which classifies the number of quarter turns of each image.

    ``loss = mean_i CE(W x_i + b, t_i)`` with one number ``t_i`` in 0..3 of counterclockwise quarter
    turns per image, in balanced numbers within a batch. The method is unsuitable for images whose
    rotations look like other classes, such as 6 and 9. The reference code applies crop and flip
    (``pretrain.augmentation: crop_flip``) before the rotation.

    Shapes:
        logits ``[B, 4]``, targets ``[B]`` int64 -> scalar; images ``[B, C, S, S]`` in and out of
        `pretext`, with targets ``[B]``.

    Lower is better; mean over the batch, 0 for an empty batch. Chance level is ``log 4``.

    Raises:
        ValueError: Images are not square.

    Source:
        Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations",
        arXiv:1803.07728, which uses all four rotations of every image; for long-tailed data Yang
        and Xu 2020, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning",
        arXiv:2006.07529, section 4, with reference code YyzHarry/imbalanced-semi-self, which this
        implementation follows.

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
        """Rotate each image of ``[B, C, S, S]`` by its number of quarter turns."""
        if images.shape[-1] != images.shape[-2]:
            raise ValueError(
                "pretrainers/rotation: images must be square to be rotated; received "
                f"{images.shape[-2]} x {images.shape[-1]}"
            )
        result = images
        for number in (1, 2, 3):
            chosen = (turns == number)[:, None, None, None]
            result = torch.where(chosen, images.rot90(number, dims=(-2, -1)), result)
        return result

    def __call__(self, *, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy_each(logits, targets).sum() / max(1, len(targets))
