"""Head module of the nearest-class-mean classifier on centered and normalized features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.functional.l2_normalize import l2_normalize
from trainables.models.growth import check_prototypes, grow_rows


class NearestMeanHead(nn.Module):
    """Nearest-mean head: logits ``-scale |t(x) - mu_c|^2`` or ``scale t(x) . mu_c``.

    ``t(x) = (x - m) / |x - m|``. ``weight [C, D]`` holds the class means mu_c of transformed
    features; the means are not normalized, because their norm tells how concentrated a class is.
    ``center [D]`` is m, a buffer that is initially zero and not trained.

    Args:
        num_features: D.
        num_classes: C.
        squared: Negative squared distance; otherwise scalar product.
        scale: Factor of the logits.
    """

    center: Tensor

    def __init__(self, num_features: int, num_classes: int, *, squared: bool, scale: float) -> None:
        super().__init__()
        self.squared, self.scale = squared, scale
        self.weight = nn.Parameter(
            l2_normalize(torch.empty(num_classes, num_features).uniform_(-1, 1))
        )
        self.register_buffer("center", torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``; a feature equal to the center is transformed to zero."""
        inputs = l2_normalize(features - self.center)
        products = nn.functional.linear(inputs, self.weight)
        if not self.squared:
            return self.scale * products
        lengths = inputs.square().sum(dim=1, keepdim=True) + self.weight.square().sum(dim=1)
        return self.scale * (2 * products - lengths)

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. The center stays the same; ``new_bias`` is ignored.

        Prototypes are features, as with other heads. The transformed prototypes become the new
        means, by default rescaled to the mean norm of the old means.
        """
        if prototypes is not None:
            check_prototypes(prototypes, num_new, len(self.center))
            prototypes = l2_normalize(prototypes.to(self.center) - self.center)
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
