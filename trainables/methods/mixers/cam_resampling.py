"""Resampling by class activation maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from trainables.class_weights import begun
from trainables.foregrounds import foreground, moved_over, movements
from trainables.methods.method import Range
from trainables.methods.mixers import Mixer
from trainables.methods.mixers.none import NoMixing
from trainables.mixing import Mix

ALONE = NoMixing().dump()


class CamResampling(Mixer):
    """Late in training, rare classes get new images: their foreground moved over their background.

    Class c lacks ``n_max + n_min - n_c`` images, so each of its samples is a new one with chance
    ``lack_c / (n_c + lack_c)``. A new image is its own old one with the foreground (class
    activation map at least ``threshold`` times its mean) pasted over it after a rotation with
    scaling, a shift within the image, or mirroring. Meant for a run whose last part draws classes
    alike: ``sampler: {deferred: {base: class_balanced, start: 0.8}}``. Another mixer may then mix
    the new images, as Bag of Tricks does with mixup, and mixes alone before ``start``.

    Args:
        start: Fraction of training without it, in [0, 1]. Default 0.8: epoch 160 of 200.
        threshold: Share of the map's mean that is foreground, >= 0. Default 3/4.
        most: Largest number of new images per class; a class with as many images lacks none.
            Default ``null``, no bound, for CIFAR; 100 for ImageNet-LT, 50 for iNaturalist.
        mixer: What mixes the images afterwards, in pairs. Default none.

    Shapes:
        images ``[B, 3, H, W]``, labels ``[B]`` int64, class_counts ``[C]``, class_activation: a
        function that gives the maps ``[B, H, W]`` of these images -> `trainables.mixing.Mix`;
        before ``start`` what the mixer gives.

    Raises:
        ValueError: The mixer makes new images itself.

    Source:
        Zhang et al. 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI, section 4.3; reference code zhangyongshun/BagofTricks-LT. There the
        images are made once and stored as JPEG, with the map of a randomly cropped copy laid over
        the uncropped image; here they are made anew for every batch, each under its own map.

    Example:
        >>> CamResampling().lacking(torch.tensor([90, 30, 10])).tolist()
        [10, 70, 90]
    """

    start: Annotated[float, Field(ge=0, le=1), Range(0.5, 0.95)] = 0.8
    threshold: Annotated[float, Field(ge=0, le=4), Range(0.5, 1.5)] = 0.75
    most: Annotated[int, Field(ge=1)] | None = None
    mixer: Mixer = NoMixing()

    @model_validator(mode="after")
    def _pasted_once(self) -> Self:
        if "class_activation" in self.mixer.needs():
            raise ValueError(
                f"mixers/cam_resampling.mixer: '{self.mixer.name}' makes new images itself; "
                "allowed: a mixer of pairs, or none"
            )
        return self

    @model_serializer(mode="wrap")
    def _alone_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out that nothing is mixed: recipes stored before keep their digests."""
        tree: dict[str, Any] = dump(self)
        return {key: value for key, value in tree.items() if key != "mixer" or value != ALONE}

    def lacking(self, class_counts: torch.Tensor) -> torch.Tensor:
        """Return how many new images each class gets ``[C]``; a class without images none."""
        present = class_counts[class_counts > 0]
        if not len(present):
            return torch.zeros_like(class_counts)
        lack = present.max() + present.min() - class_counts
        if self.most is not None:
            lack = lack.clamp(max=self.most).masked_fill(class_counts >= self.most, 0)
        return lack.masked_fill(class_counts == 0, 0)

    def __call__(
        self,
        *,
        images: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        class_activation: Callable[[], torch.Tensor],
        progress: float,
        generator: torch.Generator,
    ) -> Mix | None:
        mixed: Mix | None = self.mixer.supplied(
            {
                "images": images,
                "labels": labels,
                "class_counts": class_counts,
                "progress": progress,
                "generator": generator,
            }
        )
        if not begun(self.start, progress):
            return mixed
        draws = torch.rand(4, len(labels), generator=generator).to(images.device)
        masks = foreground(class_activation(), threshold=self.threshold)
        new = moved_over(images, masks, movements(masks, draws))
        lack = self.lacking(class_counts)
        chance = lack / (class_counts + lack).clamp(min=1)
        chosen = (draws[3] < chance[labels])[:, None, None, None]
        pasted = torch.where(chosen, new, images)
        if mixed is not None:
            return mixed._replace(pasted=pasted)
        itself = torch.arange(len(labels), device=labels.device)
        return Mix(itself, 1.0, labels, labels, 1.0, pasted=pasted)
