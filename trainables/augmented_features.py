"""Features of a view under random augmentation, for what compares two views of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.artifacts import Backbone, ImageView
from trainables.backbone import from_artifact
from trainables.loader import Loader
from trainables.methods.augmentations import Augmentation


class AugmentedFeatures:
    """Gives a view's features ``[N, D]`` under a new random augmentation at each call.

    Args:
        backbone: The trunk, in evaluation mode.
        view: The images.
        device: Where the trunk runs; the features come to the CPU.
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
            augmentation: Of the images.
            generator: Draws it.
        """
        size = len(self.loader)
        self.loader.augmentation = augmentation
        batches = self.loader.epoch(positions=torch.arange(size), generator=generator)
        parts = [self.trunk(batch.images).float().cpu() for batch in batches]
        # a loader serves a single image twice
        return torch.cat([torch.empty(0, self.trunk.num_features), *parts])[:size]
