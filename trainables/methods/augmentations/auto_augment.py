"""AutoAugment for CIFAR-10, with Cutout."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.augmentations import Augmentation
from trainables.methods.augmentations.crop_flip import CropFlip
from trainables.methods.method import Choice

STRONGEST = 9
# pairs of (operation, probability, magnitude from 0 to 9); some operations have no magnitude
SUB_POLICIES = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)


class AutoAugment(Augmentation):
    """Crop and flip, then one of AutoAugment's 25 sub-policies for CIFAR-10, then Cutout.

    For each image a sub-policy is drawn: two consecutive operations, each with a probability, a
    magnitude and, where the operation has one, a random sign. Then a black square covers part of
    the image; its center is a random pixel, and it is clipped at the borders.

    Args:
        fill: Gray level, 0 to 255, of areas that shear, translate and rotate uncover. Default 128,
            as in the reference codes below; torchvision's default is 0.
        cutout: Side of the square for an image of 32 pixels, at least 0 (none); for other sizes,
            ``round(cutout * H / 32)``. Default 16, as in the reference codes for CIFAR-10-LT and
            CIFAR-100-LT; DeVries and Taylor chose 16 for CIFAR-10 and 8 for CIFAR-100.
        padding: Padding of the crop, see crop_flip.
        flip: Horizontal flip, see crop_flip; unsuitable for digits and text.

    Shapes:
        images: uint8 ``[B, 3, H, W]`` in and out.

    Source:
        Cubuk, Zoph, Mane, Vasudevan, Le 2019, arXiv 1805.09501, appendix; DeVries, Taylor 2017,
        arXiv 1708.04552. Each sub-policy equals that of torchvision's ``AutoAugment`` with policy
        CIFAR10, given the same random numbers. The reference code shared by balanced softmax, PaCo
        and ProCo (jiawei-ren/BalancedMetaSoftmax-Classification, data/autoaugment.py) has the same
        sub-policies, with other details: shears interpolate bicubically, rotations have one
        direction, translations are by fractions of a pixel, and solarize starts at 256 instead of
        255. As in that code, the square is black before images are normalized; DeVries and Taylor
        set it to zero after normalization, which is the mean color.

    Example:
        >>> import torch
        >>> images = torch.full((4, 3, 8, 8), 255, dtype=torch.uint8)
        >>> out = AutoAugment()(images=images, generator=torch.Generator().manual_seed(0))
        >>> out.shape, bool((out == 0).all(1).any())
        (torch.Size([4, 3, 8, 8]), True)
    """

    fill: Annotated[int, Field(ge=0, le=255)] = 128
    cutout: Annotated[int, Field(ge=0, le=64), Choice((0, 8, 16))] = 16
    padding: Annotated[int, Field(ge=1)] = 4
    flip: bool = True

    def __call__(self, *, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        from trainables.transforms.image_ops import cutout, random_integers

        images = CropFlip(padding=self.padding, flip=self.flip)(images=images, generator=generator)
        count, place = len(images), generator.device
        policies = torch.randint(len(SUB_POLICIES), (count,), generator=generator, device=place)
        chances = torch.rand(2, count, generator=generator, device=place)
        negative = torch.randint(2, (2, count), generator=generator, device=place).bool()
        images = self.changed(images, policies=policies, chances=chances, negative=negative)
        size = round(self.cutout * images.shape[2] / 32)
        if size:
            row = random_integers(images.shape[2], (count,), generator, images.device)
            column = random_integers(images.shape[3], (count,), generator, images.device)
            images = cutout(images, row=row, column=column, size=size)
        return images

    def changed(
        self,
        images: torch.Tensor,
        *,
        policies: torch.Tensor,
        chances: torch.Tensor,
        negative: torch.Tensor,
    ) -> torch.Tensor:
        """Apply the two operations of each image's sub-policy.

        Args:
            images: uint8 ``[B, 3, H, W]``.
            policies: Indices into the list of sub-policies ``[B]``.
            chances: Uniform random numbers in [0, 1), ``[2, B]``; an operation is applied where its
                probability is larger.
            negative: Signs, bool ``[2, B]``.
        """
        from trainables.transforms.augment_ops import IDENTITY, apply_operations, signed

        operations, probabilities, parts = _tables(policies.device)
        for turn in range(2):
            chosen = chances[turn] < probabilities[turn, policies]
            numbers = torch.where(chosen, operations[turn, policies], IDENTITY)
            strengths = signed(parts[turn, policies], negative[turn])
            images = apply_operations(images, numbers, strengths, fill=self.fill)
        return images


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return number, probability and strength of each sub-policy's operations ``[2, 25]``."""
    from trainables.transforms.augment_ops import NAMES

    turns = list(zip(*SUB_POLICIES, strict=True))
    numbers = [[NAMES.index(name) for name, _, _ in turn] for turn in turns]
    chances = [[chance for _, chance, _ in turn] for turn in turns]
    parts = [[magnitude / STRONGEST for _, _, magnitude in turn] for turn in turns]
    return (
        torch.tensor(numbers, device=device),
        torch.tensor(chances, device=device),
        torch.tensor(parts, dtype=torch.float64, device=device),
    )
