"""Probabilistic contrastive loss (ProCo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.functional.contrast import similarities
from trainables.methods.losses import Loss
from trainables.methods.losses.logit_adjustment import LogitAdjustment
from trainables.methods.method import Range

if TYPE_CHECKING:
    from trainables.models.contrastive_module import ContrastiveModule

MOST_CONCENTRATED = 1e5  # the estimate for a class of one sample would be infinite


class ProCo(Loss):
    """Probabilistic contrastive loss, the expected contrast with a distribution of each class.

    The projections of class c are modeled by a von Mises-Fisher distribution of direction ``mu_c``
    and concentration ``kappa_c = P R_c / (1 - R_c^2)``, where ``R_c mu_c`` is their running mean.
    The contrast with infinitely many samples has the closed form ``loss = mean_i CE(s_i + log pi,
    y_i)`` with ``s_ic = log E[exp(z_i z / T)] = log I_v(k_ic) / k_ic^v - log I_v(kappa_c) /
    kappa_c^v``, ``k_ic = |kappa_c mu_c + z_i / T|``, ``v = P / 2 - 1`` and I the modified Bessel
    function. Classes may be absent from the batch. The loss does not train the head; use it in
    ``joint``, as the paper (weight 1, with ``logit_adjustment``).

    Args:
        temperature: T > 0. Default 0.1, as in the reference code.
        dimension: Width P of the projections. Default 128.

    Shapes:
        projections ``[N, P]`` of unit norm, labels ``[N]`` int64; class_means ``[C, P]`` of norm at
        most 1, without gradient; class_counts ``[C]`` -> scalar. Two views of an image are two
        rows.

    Lower is better; mean over the N anchors. The class means are over the previous and the current
    epoch, this batch included. A class of one image has the largest concentration, 1e5; a class
    without samples is never predicted. At ``kappa_c = 0`` (uniform) ``s_ic`` is the same for all
    directions.

    As in the reference code, kappa lacks the term ``-R^3 / (1 - R^2)`` of the standard estimate, a
    fraction of less than 1 / P. Differences: the loss and the head get the rows of all views; the
    Bessel functions are exact to float64, while the reference code's recurrence starts at order
    P - 2, which fails for ``k`` far above P (``log I_v`` is 2.8 too small at P = 128 and k = 1e5);
    the reference code's projector has width 512 and batch normalization.

    Source:
        Du et al. 2024, "Probabilistic Contrastive Learning for Long-Tailed Visual Recognition",
        arXiv:2403.06726; reference code LeapLabTHU/ProCo, ProCo_cifar/loss/proco.py. Banerjee et
        al. 2005, "Clustering on the Unit Hypersphere using von Mises-Fisher Distributions",
        equation 4.4, for the standard estimate.

    Example:
        Two classes that differ only in size give -log(3 / 4).

        >>> ProCo()(
        ...     projections=torch.tensor([[1.0, 0.0]]),
        ...     labels=torch.tensor([0]),
        ...     class_means=torch.tensor([[0.5, 0.5], [0.5, -0.5]]),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        tensor(0.2877)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.1
    dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule:
        from trainables.models.contrastive_module import ContrastiveModule

        return ContrastiveModule(
            num_features, views=2, dimension=self.dimension, num_means=num_classes
        )

    def class_logits(self, projections: torch.Tensor, class_means: torch.Tensor) -> torch.Tensor:
        """Return ``log E[exp(z_i z / T)]`` under each class's distribution, ``[N, C]`` float64."""
        from trainables.functional.von_mises_fisher import log_normalizer

        # float64, because the logits are differences of numbers of up to about 1e5 (kappa)
        rows, means = projections.double(), class_means.detach().double()
        width = means.shape[1]
        length = torch.linalg.vector_norm(means, dim=1)
        # by rounding, the mean of equal rows may have a norm above 1
        dispersion = (1 - length.square()).clamp(min=torch.finfo(length.dtype).tiny)
        kappa = (width * length / dispersion).clamp(max=MOST_CONCENTRATED)
        natural = kappa[:, None] * torch.nn.functional.normalize(means, dim=1)
        products = similarities(rows, natural, temperature=self.temperature)
        squared_norm = (rows / self.temperature).square().sum(dim=1, keepdim=True)
        squared = (kappa.square() + 2 * products + squared_norm).clamp(min=0)
        moved = log_normalizer(squared, dimension=width)
        return moved - log_normalizer(kappa.square(), dimension=width)

    def __call__(
        self,
        *,
        projections: torch.Tensor,
        labels: torch.Tensor,
        class_means: torch.Tensor,
        class_counts: torch.Tensor,
    ) -> torch.Tensor:
        logits = self.class_logits(projections, class_means)
        loss = LogitAdjustment()(logits=logits, labels=labels, class_counts=class_counts)
        return loss.to(full_precision(projections))
