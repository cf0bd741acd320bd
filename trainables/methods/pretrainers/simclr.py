"""SimCLR: two views of one image attract, all other images repel."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.pretrainers import Pretrainer


class SimCLR(Pretrainer):
    """SimCLR: two views of one image attract, the views of all other images repel.

    NT-Xent over the 2B projections: ``loss = mean_i -log(exp(s_ip / T) / sum_{k != i} exp(s_ik /
    T))`` with cosines ``s`` and ``p`` the other view of i's image.

    Args:
        temperature: T > 0. 0.2 for small images (solo-learn's CIFAR recipe); the paper takes 0.1
            on ImageNet and 0.5 on CIFAR-10.
        hidden_dimension: Width of the projector's hidden layer; 2048 as in solo-learn.
        output_dimension: Width P of the projections; 256 as in solo-learn, 128 in the paper.
        variant: The projector: ``"paper"`` linear-ReLU-linear, the same on any number of workers;
            ``"official"`` adds batch normalisation after both layers, as the released code does,
            and needs at least two images a batch.

    Shapes:
        first_projections and second_projections ``[B, P]`` (any length; made unit norm here) ->
        scalar.

    Lower is better; mean over the 2B anchors. ``log(2B - 1)`` when all projections are equal; 0 for
    a single image, which has nothing to repel, and for an empty batch. Computed in float32 also
    under autocast. The loss sees what it is given: one worker's images, or those of all workers if
    the caller gathers them.

    Raises:
        ValueError: The two views differ in shape.

    Source:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
        arXiv:2002.05709, equation 1; reference code google-research/simclr, objective.py.

    Example:
        Both images have equal views, orthogonal to each other: -log(e / (e + 2)).

        >>> views = torch.eye(2)
        >>> SimCLR(temperature=1.0)(first_projections=views, second_projections=views)
        tensor(0.5514)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.2
    hidden_dimension: Annotated[int, Field(ge=1)] = 2048
    output_dimension: Annotated[int, Field(ge=1)] = 256
    variant: Literal["paper", "official"] = "paper"

    def build(self, num_features: int) -> torch.nn.Module:
        from trainables.projectors import Projector

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
        # autocast would take the matrix product back to 16 bits: exp(1 / T) needs more digits
        with torch.autocast(views.device.type, enabled=False):
            units = torch.nn.functional.normalize(views, dim=1)
            similarity = units @ units.T / self.temperature
        count = len(first_projections)
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        other_view = torch.arange(len(views), device=views.device).roll(count)
        return torch.nn.functional.cross_entropy(
            similarity.masked_fill(itself, -torch.inf), other_view
        )
