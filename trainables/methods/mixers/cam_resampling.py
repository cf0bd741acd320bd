"""Resampling by class activation maps (CAM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from trainables.functional.class_weights import begun
from trainables.methods.method import Range
from trainables.methods.mixers import Mixer
from trainables.methods.mixers.none import NoMixing
from trainables.transforms.foregrounds import foreground, paste_transformed, random_transforms
from trainables.transforms.mixing import Mix

ALONE = NoMixing().dump()


class CamResampling(Mixer):
    """CAM-based resampling: rare classes get new images with a transformed foreground.

    From ``start`` on, class c gets ``lack_c = n_max + n_min - n_c`` new images: each of its samples
    is replaced by a new image with probability ``lack_c / (n_c + lack_c)``. In a new image, the
    foreground (class activation map at least ``threshold`` times its mean) is rotated and scaled,
    shifted within the image, or flipped, and pasted over the original image. The method is meant
    for training with a class-balanced last part,
    ``sampler: {deferred: {base: class_balanced, start: 0.8}}``. Another ``mixer`` may mix the
    images afterwards, as mixup in Bag of Tricks; before ``start`` only that mixer is applied.

    Args:
        start: Fraction of training without new images, in [0, 1]. Default 0.8, which is epoch 160
            of 200.
        threshold: Foreground threshold as a multiple of the map's mean, >= 0. Default 3/4.
        most: Largest number of new images per class; a class with at least as many images gets
            none. Default ``null``, no limit, for CIFAR; 100 for ImageNet-LT, 50 for iNaturalist.
        mixer: Mixer of the images afterwards, in pairs. Default none.

    Shapes:
        images ``[B, 3, H, W]``, labels ``[B]`` int64, class_counts ``[C]``, class_activation, a
        function that returns the maps ``[B, H, W]`` of these images ->
        `trainables.transforms.mixing.Mix`; before ``start`` the result of ``mixer``.

    Raises:
        ValueError: ``mixer`` synthesizes new images as well.

    Source:
        Zhang et al. 2021, "Bag of Tricks for Long-Tailed Visual Recognition with Deep Convolutional
        Neural Networks", AAAI, section 4.3; reference code zhangyongshun/BagofTricks-LT. The
        reference code makes the images once and stores them as JPEG, applying the map of a randomly
        cropped copy to the uncropped image. This implementation makes new images for every batch,
        each from the map of the image itself.

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
        if "class_activation" in self.mixer.required_inputs():
            raise ValueError(
                f"mixers/cam_resampling.mixer: '{self.mixer.name}' makes new images as well; "
                "allowed: a mixer of pairs, or none"
            )
        return self

    @model_serializer(mode="wrap")
    def _alone_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the default mixer, so that recipes stored before it existed keep their digests."""
        tree: dict[str, Any] = dump(self)
        return {key: value for key, value in tree.items() if key != "mixer" or value != ALONE}

    def lacking(self, class_counts: torch.Tensor) -> torch.Tensor:
        """Return the number of new images per class ``[C]``; 0 for a class without images."""
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
        mixed: Mix | None = self.mixer.call_with(
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
        new = paste_transformed(images, masks, random_transforms(masks, draws))
        lack = self.lacking(class_counts)
        chance = lack / (class_counts + lack).clamp(min=1)
        chosen = (draws[3] < chance[labels])[:, None, None, None]
        pasted = torch.where(chosen, new, images)
        if mixed is not None:
            return mixed._replace(pasted=pasted)
        itself = torch.arange(len(labels), device=labels.device)
        return Mix(itself, 1.0, labels, labels, 1.0, pasted=pasted)
