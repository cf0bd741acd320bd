"""RandAugment."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.augmentations import Augmentation
from trainables.methods.augmentations.crop_flip import CropFlip
from trainables.methods.method import Range

NUM_OPERATIONS = 14  # all of `trainables.transforms.augment_ops` except "invert"
STRONGEST = 30


class RandAugment(Augmentation):
    """Crop and flip, then RandAugment: random operations of one strength for each image.

    ``num_ops`` operations per image are drawn from 14: identity, shear x and y, translate x and y,
    rotate, brightness, color, contrast, sharpness, posterize, solarize, autocontrast, equalize.

    Args:
        num_ops: Number of consecutive operations per image, at least 0; 2 in the paper for
            ImageNet.
        magnitude: Strength of the operations, 0 to 30; 9 in the paper for ImageNet. At 30, shears
            are by 0.3, translations by 45 % of the width, rotations by 30 degrees, color factors
            are 1 +- 0.9, posterize keeps 4 bits and solarize inverts all pixels.
        padding: Padding of the crop, see crop_flip.
        flip: Horizontal flip, see crop_flip; unsuitable for digits and text.

    Shapes:
        images: uint8 ``[B, 3, H, W]`` in and out.

    Source:
        Cubuk, Zoph, Shlens, Le 2020, arXiv 1909.13719. Operations, strengths and order are those of
        torchvision's ``RandAugment`` (31 strengths, nearest-neighbor sampling, black fill), with
        equal results given the same random numbers.

    Example:
        >>> import torch
        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> RandAugment()(images=images, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3, 8, 8])
    """

    num_ops: Annotated[int, Field(ge=0, le=8), Range(1, 3)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30), Range(1, 15)] = 9
    padding: Annotated[int, Field(ge=1)] = 4
    flip: bool = True

    def __call__(self, *, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        from trainables.transforms.augment_ops import apply_operations, signed

        images = CropFlip(padding=self.padding, flip=self.flip)(images=images, generator=generator)
        shape, place = (self.num_ops, len(images)), generator.device
        operations = torch.randint(NUM_OPERATIONS, shape, generator=generator, device=place)
        negative = torch.randint(2, shape, generator=generator, device=place).bool()
        strengths = signed(self.magnitude / STRONGEST, negative)
        for turn in range(self.num_ops):
            images = apply_operations(images, operations[turn], strengths[turn])
        return images
