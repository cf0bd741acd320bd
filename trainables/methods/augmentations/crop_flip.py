"""Random crop and horizontal flip."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.augmentations import Augmentation


class CropFlip(Augmentation):
    """Random crop of the zero-padded image, and a random horizontal flip.

    Each image is padded by ``padding`` black pixels per side and cropped to one of the
    ``(2 * padding + 1) ** 2`` windows of the original size.

    Args:
        padding: Pixels per side for an image of 32 pixels, at least 1; for other sizes,
            ``max(1, round(padding * H / 32))``. Default 4, standard for CIFAR (He et al. 2016).
        flip: Flip horizontally with probability 1/2; unsuitable for digits and text.

    Shapes:
        images: uint8 ``[B, 3, H, W]`` in and out.

    Source:
        He, Zhang, Ren, Sun 2016, arXiv 1512.03385, section 4.2. Equal to torchvision's
        ``RandomCrop(H, padding)`` and ``RandomHorizontalFlip``, given the same random numbers.

    Example:
        >>> import torch
        >>> images = torch.full((2, 3, 8, 8), 7, dtype=torch.uint8)
        >>> out = CropFlip()(images=images, generator=torch.Generator().manual_seed(0))
        >>> out.shape, sorted(set(out.flatten().tolist()) - {0})
        (torch.Size([2, 3, 8, 8]), [7])
    """

    padding: Annotated[int, Field(ge=1)] = 4
    flip: bool = True

    def __call__(self, *, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        from trainables.transforms.image_ops import flip, padded_crop, random_bits, random_integers

        count, height = len(images), images.shape[2]
        padding = max(1, round(self.padding * height / 32))
        offsets = random_integers(2 * padding + 1, (2, count), generator, images.device)
        images = padded_crop(images, top=offsets[0], left=offsets[1], padding=padding)
        if self.flip:
            images = flip(images, random_bits(count, generator, images.device))
        return images
