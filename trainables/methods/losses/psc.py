"""Prototypical supervised contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from trainables.contrast import similarities
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range

if TYPE_CHECKING:
    from trainables.companion import Companion


class PSC(Loss):
    """Prototypical supervised contrastive: a projection is drawn to its class's learned prototype.

    ``loss = mean_i -log(exp(z_i c_y / T) / sum_{j != y} exp(z_i c_j / T))``, the prototypes ``c``
    of unit norm. It trains no head: use it in ``joint``. Memory grows with the classes, not with
    the square of the batch, and a class of one image has a positive too.

    Args:
        temperature: T > 0. Default 0.1 (the paper on CIFAR-100; 1 on CIFAR-10).
        denominator: ``"others"`` leaves the own prototype out of the denominator, as the paper's
            equation does (the loss can be negative); ``"all"`` is the ordinary softmax that many
            re-implementations use.
        dimension: Width P of the projections. Default 128.

    Shapes:
        projections ``[N, P]`` and prototypes ``[C, P]`` of unit norm, labels ``[N]`` int64 ->
        scalar.

    Lower is better; mean over the batch; 0 for a single class.

    Source:
        Wang et al. 2021, "Contrastive Learning based Hybrid Networks for Long-Tailed Image
        Classification", arXiv:2103.14267, equation 5. The released code was not at hand.

    Example:
        >>> given = {
        ...     "projections": torch.tensor([[1.0, 0.0]]),
        ...     "prototypes": torch.eye(2),
        ...     "labels": torch.tensor([0]),
        ... }
        >>> PSC(temperature=1.0)(**given)  # -log(e / 1)
        tensor(-1.)
        >>> PSC(temperature=1.0, denominator="all")(**given)  # -log(e / (e + 1))
        tensor(0.3133)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.1
    denominator: Annotated[Literal["others", "all"], Choice(("others", "all"))] = "others"
    dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int, num_classes: int) -> Companion:
        from trainables.companion import Companion

        return Companion(num_features, dimension=self.dimension, num_prototypes=num_classes)

    def __call__(
        self, *, projections: torch.Tensor, prototypes: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        logits = similarities(projections, prototypes, temperature=self.temperature)
        if self.denominator == "all" or len(prototypes) == 1:
            return torch.nn.functional.cross_entropy(logits, labels)
        own = torch.nn.functional.one_hot(labels, len(prototypes)).bool()
        others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
        return (others - logits.gather(1, labels[:, None])[:, 0]).mean()
