"""No augmentation."""

from __future__ import annotations

import torch

from trainables.methods.augmentations import Augmentation


class NoAugmentation(Augmentation):
    """No augmentation.

    Shapes:
        images: uint8 ``[B, 3, H, W]``, returned unchanged.

    Source:
        Identity, the baseline of all augmentations.

    Example:
        >>> import torch
        >>> images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> NoAugmentation()(images=images, generator=torch.Generator()) is images
        True
    """

    def __call__(self, *, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return images
