"""Sum of a classification and a contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from trainables.methods.losses import Loss
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.losses.supcon import SupCon
from trainables.methods.method import Choice, Range

if TYPE_CHECKING:
    from trainables.models.contrastive_module import ContrastiveModule


class Joint(Loss):
    """A loss on logits plus a weighted contrastive loss on projections of the same features.

    ``constant``: ``base + weight * contrast``. ``cumulative``: ``(1 - a) * base + a * weight *
    contrast`` with ``a = 1 - progress^2``, which shifts training from features to classifier.

    Args:
        base: Loss on logits, which trains the head. Default cross_entropy.
        contrast: Loss on projections only, which trains the features. Default supcon.
        weight: Weight of the contrastive loss, >= 0. Default 0.35, as in the recipe of BCL's
            reference code.
        schedule: ``"constant"`` (BCL) or ``"cumulative"`` (Hybrid-SC and Hybrid-PSC, with weight
            1).

    Shapes:
        Required inputs of the base, of logits ``[B, C]``, labels ``[B]`` int64, class_counts
        ``[C]``, features ``[B, D]`` and progress in [0, 1]; required inputs of the contrast, of
        projections ``[N, P]``, projection_labels ``[N]`` (by default ``labels``), prototypes
        ``[C, P]`` and class_means ``[C, P]`` -> scalar.

    Lower is better. The schedule changes at every step, in the reference codes at every epoch; at
    the start of an epoch both are equal.

    Raises:
        ValueError: The base uses projections, or the contrast uses logits.

    Source:
        Wang et al. 2021, "Contrastive Learning based Hybrid Networks for Long-Tailed Image
        Classification", arXiv:2103.14267, equation 2; Zhu et al. 2022, "Balanced Contrastive
        Learning for Long-Tailed Visual Recognition", arXiv:2207.09052, equation 9.

    Example:
        >>> loss = Joint(contrast=SupCon(temperature=1.0), weight=2.0)
        >>> loss(  # log 2 + 2 * 0, as neither row has a positive
        ...     logits=torch.zeros(2, 2),
        ...     projections=torch.eye(2),
        ...     labels=torch.tensor([0, 1]),
        ...     class_counts=torch.tensor([1, 1]),
        ... )
        tensor(0.6931)
    """

    base: Loss = CrossEntropy()
    contrast: Annotated[Loss, Choice(("supcon", "psc", "bcl", "proco"))] = SupCon()
    weight: Annotated[float, Field(ge=0), Range(0.05, 2.0, log=True)] = 0.35
    schedule: Annotated[Literal["constant", "cumulative"], Choice(("constant", "cumulative"))] = (
        "constant"
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if "projections" in self.base.accepted_inputs():
            raise ValueError(
                f"losses/joint.base: must be a loss on logits only; received '{self.base.name}'"
            )
        if "projections" not in self.contrast.required_inputs() or self.contrast.trains_head():
            raise ValueError(
                f"losses/joint.contrast: must be a loss on projections only; "
                f"received '{self.contrast.name}'"
            )
        self.check_base("base", self.base)
        self.check_base("contrast", self.contrast)
        return self

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule | None:
        return self.contrast.build(num_features, num_classes)

    def share(self, progress: float) -> float:
        """Return ``a``, the factor of the contrastive loss in the schedule ``cumulative``.

        Example:
            >>> Joint().share(0.5)
            0.75
        """
        return 1.0 - progress**2

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        projections: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        progress: float = 0.0,
        features: torch.Tensor | None = None,
        projection_labels: torch.Tensor | None = None,
        prototypes: torch.Tensor | None = None,
        class_means: torch.Tensor | None = None,
    ) -> torch.Tensor:
        available: dict[str, Any] = {
            "logits": logits,
            "labels": labels,
            "class_counts": class_counts,
            "progress": progress,
            "features": features,
            "projections": projections,
            "prototypes": prototypes,
            "class_means": class_means,
        }
        available = {name: value for name, value in available.items() if value is not None}
        classification: torch.Tensor = self.base.call_with(available)
        if projection_labels is not None:
            available["labels"] = projection_labels
        contrast: torch.Tensor = self.weight * self.contrast.call_with(available)
        if self.schedule == "constant":
            return classification + contrast
        share = self.share(progress)
        return (1 - share) * classification + share * contrast
