"""The head that answers with the class whose mean is nearest, of features that were normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.directions import directions
from trainables.growth import check_prototypes, grow_rows


class NearestMeanHead(nn.Module):
    """Logits ``-scale |t(x) - mu_c|^2`` or ``scale t(x) . mu_c``, with t(x) the centred direction.

    ``t(x) = (x - m) / |x - m|``. ``weight [C, D]`` holds the means mu_c of features that went
    through t; a mean of directions is shorter than 1, and how short counts: it is not normalised.
    ``center [D]`` is m, part of the state; it is zero until somebody sets it, and does not train.

    Args:
        num_features: D.
        num_classes: C.
        squared: Which of the two readings: squared distance or scalar product.
        scale: Factor on the logits.
    """

    center: Tensor

    def __init__(self, num_features: int, num_classes: int, *, squared: bool, scale: float) -> None:
        super().__init__()
        self.squared, self.scale = squared, scale
        self.weight = nn.Parameter(
            directions(torch.empty(num_classes, num_features).uniform_(-1, 1))
        )
        self.register_buffer("center", torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``; a feature at the center has the direction zero."""
        inputs = directions(features - self.center)
        products = nn.functional.linear(inputs, self.weight)
        if not self.squared:
            return self.scale * products
        lengths = inputs.square().sum(dim=1, keepdim=True) + self.weight.square().sum(dim=1)
        return self.scale * (2 * products - lengths)

    @torch.no_grad()
    def grow(self, num_new: int, prototypes: Tensor | None = None, *, rescale: bool = True) -> None:
        """Append classes; see `trainables.modules.grow_head`. The center stays where it is.

        Prototypes are features, as of other heads: their centred directions become the new means,
        by default with the mean length of the old ones.
        """
        if prototypes is not None:
            check_prototypes(prototypes, num_new, len(self.center))
            prototypes = directions(prototypes.to(self.center) - self.center)
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
