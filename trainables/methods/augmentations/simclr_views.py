"""SimCLR's augmentation for small images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.augmentations import Augmentation


class SimclrViews(Augmentation):
    """SimCLR's random augmentation for small images; two calls give a pair of views.

    The operations are a random resized crop, a random horizontal flip, color jitter (brightness,
    contrast, saturation and hue, in random order for each image) and random grayscale. There is no
    blur, as in the paper's experiments on CIFAR.

    Args:
        min_scale: Smallest area of a crop as a fraction of the image, in (0, 1]; 0.08 in the
            paper, 0.2 in SCAN.
        jitter: Strength s of the color jitter, at least 0 (none): factors in 1 +- 0.8 s, hue shifts
            of +- 0.2 s turns; 0.5 for CIFAR in the paper.
        jitter_probability: Probability of the jitter, in [0, 1]; 0.8 in the paper.
        gray_probability: Probability of grayscale, in [0, 1]; 0.2 in the paper.
        flip: Flip horizontally with probability 1/2; unsuitable for digits and text.

    Shapes:
        images: uint8 ``[B, 3, H, W]`` in and out.

    Source:
        Chen, Kornblith, Norouzi, Hinton 2020, arXiv 2002.05709, appendices A and B.9. Each
        operation equals torchvision's, given the same random numbers.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)  # black stays black
        >>> out = SimclrViews()(images=images, generator=torch.Generator().manual_seed(0))
        >>> out.shape, int(out.max())
        (torch.Size([2, 3, 8, 8]), 0)
    """

    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.5
    jitter_probability: Annotated[float, Field(ge=0, le=1)] = 0.8
    gray_probability: Annotated[float, Field(ge=0, le=1)] = 0.2
    flip: bool = True

    def __call__(self, *, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        from trainables.transforms import color_ops, image_ops

        count, device = len(images), images.device
        size = (images.shape[2], images.shape[3])
        boxes = image_ops.random_boxes(count, size, generator, scale=(self.min_scale, 1.0))
        images = image_ops.resized_crop(images, boxes)
        if self.flip:
            images = image_ops.flip(images, image_ops.random_bits(count, generator, device))
        if self.jitter:
            images = self._jitter(images, generator)
        chosen = image_ops.random_uniform((count,), generator, device) < self.gray_probability
        return color_ops.grayscale(images, chosen)

    def _jitter(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Jitter the colors of randomly chosen images, in random order for each image."""
        from trainables.transforms import color_ops
        from trainables.transforms.image_ops import change_chosen

        operations = (
            color_ops.brightness,
            color_ops.contrast,
            color_ops.saturation,
            color_ops.hue,
        )
        shape, place = (5, len(images)), generator.device
        draws = torch.rand(shape, generator=generator, device=place)
        order = torch.rand((len(images), 4), generator=generator, device=place).argsort(dim=1)
        stays = draws[4] >= self.jitter_probability
        images = images.clone()
        for turn in range(4):
            for number, operation in enumerate(operations):
                strength = (2.0 * draws[number] - 1.0) * self.jitter * (0.2 if number == 3 else 0.8)
                factor = strength if number == 3 else 1.0 + strength
                chosen = (order[:, turn] == number) & ~stays
                images = change_chosen(images, chosen, operation, factor)
        return images
