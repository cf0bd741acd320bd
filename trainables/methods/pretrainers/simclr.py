"""SimCLR."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.pretrainers import Pretrainer


class SimCLR(Pretrainer):
    """SimCLR, contrastive learning in which two views of an image are positives.

    The loss is NT-Xent over the 2B projections, ``mean_i -log(exp(s_ip / T) / sum_{k != i} exp(s_ik
    / T))`` with cosines ``s`` and ``p`` the other view of i's image.

    Args:
        temperature: T > 0; 0.2 for small images (solo-learn's CIFAR recipe), in the paper 0.1 for
            ImageNet and 0.5 for CIFAR-10.
        hidden_dimension: Width of the projector's hidden layer; 2048 as in solo-learn.
        output_dimension: Width P of the projections; 256 as in solo-learn, 128 in the paper.
        variant: Projector. ``"paper"`` is linear-ReLU-linear, whose result does not depend on the
            number of workers; ``"official"`` adds batch normalization after both layers, as the
            reference code, and needs at least two images per batch.

    Shapes:
        first_projections and second_projections ``[B, P]`` (of any norm) -> scalar.

    Lower is better; mean over the 2B anchors. The loss is ``log(2B - 1)`` if all projections are
    equal, and 0 for a single image (no negatives) and for an empty batch. Computed in float32 even
    under autocast. Negatives are the given projections; with several workers, the caller gathers
    those of all workers.

    Raises:
        ValueError: The two views differ in shape.

    Source:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
        arXiv:2002.05709, equation 1; reference code google-research/simclr, objective.py.

    Example:
        Equal views of each image, orthogonal between the images, give -log(e / (e + 2)).

        >>> views = torch.eye(2)
        >>> SimCLR(temperature=1.0)(first_projections=views, second_projections=views)
        tensor(0.5514)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.2
    hidden_dimension: Annotated[int, Field(ge=1)] = 2048
    output_dimension: Annotated[int, Field(ge=1)] = 256
    variant: Literal["paper", "official"] = "paper"

    def build(self, num_features: int) -> torch.nn.Module:
        from trainables.models.projectors import Projector

        return Projector(
            num_features,
            hidden_dimension=self.hidden_dimension,
            output_dimension=self.output_dimension,
            batch_norm=self.variant == "official",
        )

    def __call__(
        self, *, first_projections: torch.Tensor, second_projections: torch.Tensor
    ) -> torch.Tensor:
        if first_projections.shape != second_projections.shape:
            raise ValueError(
                "pretrainers/simclr: both views must have one shape [B, P]; received "
                f"{list(first_projections.shape)} and {list(second_projections.shape)}"
            )
        views = full_precision(torch.cat([first_projections, second_projections]))
        if len(views) == 0:
            return views.sum()
        # without autocast, which would compute the product in 16 bits: too few for exp(1 / T)
        with torch.autocast(views.device.type, enabled=False):
            units = torch.nn.functional.normalize(views, dim=1)
            similarity = units @ units.T / self.temperature
        count = len(first_projections)
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        other_view = torch.arange(len(views), device=views.device).roll(count)
        return torch.nn.functional.cross_entropy(
            similarity.masked_fill(itself, -torch.inf), other_view
        )
