"""Prototypical supervised contrastive loss (PSC)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.contrast import similarities
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range

if TYPE_CHECKING:
    from trainables.models.contrastive_module import ContrastiveModule


class PSC(Loss):
    """Prototypical supervised contrastive loss, with a learned prototype as each sample's positive.

    ``loss = mean_i -log(exp(z_i c_y / T) / sum_{j != y} exp(z_i c_j / T))`` with prototypes ``c``
    of unit norm. The loss does not train the head; use it in ``joint``. Memory grows with the
    number of classes instead of the square of the batch size, and a class of one image has a
    positive.

    Args:
        temperature: T > 0. Default 0.1, the paper's for CIFAR-100 (1 for CIFAR-10).
        denominator: ``"others"`` leaves the true class's prototype out of the denominator, as in
            the paper's equation (the loss may be negative); ``"all"`` is the softmax, as in many
            re-implementations.
        dimension: Width P of the projections. Default 128.

    Shapes:
        projections ``[N, P]`` and prototypes ``[C, P]`` of unit norm, labels ``[N]`` int64 ->
        scalar.

    Lower is better; mean over the batch; 0 for a single class.

    Source:
        Wang et al. 2021, "Contrastive Learning based Hybrid Networks for Long-Tailed Image
        Classification", arXiv:2103.14267, equation 5; not compared with reference code.

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

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule:
        from trainables.models.contrastive_module import ContrastiveModule

        return ContrastiveModule(num_features, dimension=self.dimension, num_prototypes=num_classes)

    def __call__(
        self, *, projections: torch.Tensor, prototypes: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        logits = similarities(projections, prototypes, temperature=self.temperature)
        if self.denominator == "all" or len(prototypes) == 1:
            return torch.nn.functional.cross_entropy(logits, labels)
        true_class = torch.nn.functional.one_hot(labels, len(prototypes)).bool()
        others = logits.masked_fill(true_class, -torch.inf).logsumexp(dim=1)
        return (others - logits.gather(1, labels[:, None])[:, 0]).mean()
