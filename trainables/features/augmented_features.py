"""Features of a view under random augmentation, for methods that compare views of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.artifacts import Backbone, ImageView
from trainables.data.loader import Loader
from trainables.methods.augmentations import Augmentation
from trainables.models.backbone import from_artifact


class AugmentedFeatures:
    """Function that returns a view's features ``[N, D]`` under a new random augmentation.

    Args:
        backbone: The trunk; runs in evaluation mode.
        view: The images.
        device: Device of the trunk; the features are on the CPU.
        batch_size: Images per pass.
    """

    def __init__(
        self,
        backbone: Backbone,
        view: ImageView,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 512,
    ) -> None:
        self.trunk = from_artifact(backbone).eval().to(device)
        self.loader = Loader(view, batch_size=batch_size, device=device)

    @torch.no_grad()
    def __call__(self, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
        """Return features of all images in view order.

        Args:
            augmentation: Augmentation of the images.
            generator: Generator of the augmentation.
        """
        size = len(self.loader)
        self.loader.augmentation = augmentation
        batches = self.loader.epoch(positions=torch.arange(size), generator=generator)
        parts = [self.trunk(batch.images).float().cpu() for batch in batches]
        # a loader repeats a single image
        return torch.cat([torch.empty(0, self.trunk.num_features), *parts])[:size]
