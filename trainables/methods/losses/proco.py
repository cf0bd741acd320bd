"""Probabilistic contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.class_weights import full_precision
from trainables.contrast import similarities
from trainables.methods.losses import Loss
from trainables.methods.losses.logit_adjustment import LogitAdjustment
from trainables.methods.method import Range

if TYPE_CHECKING:
    from trainables.companion import Companion

MOST_CONCENTRATED = 1e5  # a class of one sample would have no bound


class ProCo(Loss):
    """Probabilistic contrastive: an anchor against all samples that a class could ever have.

    Each class's projections are taken to follow a von Mises-Fisher distribution of direction
    ``mu_c`` and concentration ``kappa_c = P R_c / (1 - R_c^2)``, ``R_c mu_c`` their running mean.
    The contrast with infinitely many draws has a closed form: ``loss = mean_i CE(s_i + log pi,
    y_i)`` with ``s_ic = log E[exp(z_i z / T)] = log I_v(k_ic) / k_ic^v - log I_v(kappa_c) /
    kappa_c^v``, ``k_ic = |kappa_c mu_c + z_i / T|``, ``v = P / 2 - 1`` and I the modified Bessel
    function. No class has to be in the batch. It trains no head: use it in ``joint``, as the paper
    does (weight 1 beside ``logit_adjustment``).

    Args:
        temperature: T > 0. Default 0.1, as in the released code.
        dimension: Width P of the projections. Default 128.

    Shapes:
        projections ``[N, P]`` of unit norm, labels ``[N]`` int64; class_means ``[C, P]`` of length
        at most 1, constants; class_counts ``[C]`` -> scalar. Two views of each image are two rows.

    Lower is better; mean over the N anchors. The means are over the last epoch and the running one,
    this batch included. A class of one image has the largest concentration, 1e5; one without
    samples never wins. At ``kappa_c = 0`` (uniform) ``s_ic`` is the same for all directions.

    As in the released code, kappa lacks the term ``-R^3 / (1 - R^2)`` of the usual estimate, less
    than 1 in P of it. Different from it: all rows are taken at once, of which the head gets all;
    its Bessel functions start their recurrence at order P - 2, which fails for ``k`` far above P
    (``log I_v`` is 2.8 too small at P = 128 and k = 1e5), these are exact to float64; its projector
    is 512 wide with batch normalisation.

    Source:
        Du et al. 2024, "Probabilistic Contrastive Learning for Long-Tailed Visual Recognition",
        arXiv:2403.06726; reference code LeapLabTHU/ProCo, ProCo_cifar/loss/proco.py. The usual
        estimate: Banerjee et al. 2005, "Clustering on the Unit Hypersphere using von Mises-Fisher
        Distributions", equation 4.4.

    Example:
        Two classes that are alike but for their sizes: -log(3 / 4).

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

    def build(self, num_features: int, num_classes: int) -> Companion:
        from trainables.companion import Companion

        return Companion(num_features, views=2, dimension=self.dimension, num_means=num_classes)

    def class_logits(self, projections: torch.Tensor, class_means: torch.Tensor) -> torch.Tensor:
        """Return ``log E[exp(z_i z / T)]`` over each class's distribution, ``[N, C]`` float64."""
        from trainables.von_mises_fisher import log_normalizer

        # float64: kappa is up to 1e5, and logits are differences of numbers as large
        rows, means = projections.double(), class_means.detach().double()
        width = means.shape[1]
        length = torch.linalg.vector_norm(means, dim=1)
        # rounding may make the mean of equal rows longer than 1
        free = (1 - length.square()).clamp(min=torch.finfo(length.dtype).tiny)
        kappa = (width * length / free).clamp(max=MOST_CONCENTRATED)
        natural = kappa[:, None] * torch.nn.functional.normalize(means, dim=1)
        alike = similarities(rows, natural, temperature=self.temperature)
        own = (rows / self.temperature).square().sum(dim=1, keepdim=True)
        squared = (kappa.square() + 2 * alike + own).clamp(min=0)
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
