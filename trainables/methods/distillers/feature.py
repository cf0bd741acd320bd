"""Feature distillation from the old model."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.distillation import batch_mean, feature_distance
from trainables.methods.distillers import Distiller
from trainables.methods.method import Choice, Range


class Feature(Distiller):
    """Feature distillation, the distance of the student's features to the old model's.

    ``loss = weight * mean_i (1 - cos(f_i, g_i))`` (cosine), or ``weight * mean_{i,d} (f_id -
    g_id)^2`` (squared).

    Args:
        weight: Factor, at least 0; 0 disables the term.
        distance: ``"cosine"`` ignores the norm of a feature, as LUCIR and the flat term of PODNet;
            ``"squared"`` does not.

    Shapes:
        student_features and old_features ``[B, D]`` -> scalar.

    Lower is nearer, 0 at equality (cosine: of directions); mean over the batch, 0 for an empty
    batch. bf16 features are computed in float32. With a frozen trunk the loss is constant. The
    cosine of a zero feature is 0.

    Raises:
        ValueError: The features differ in shape.

    Source:
        Hou et al. 2019, "Learning a Unified Classifier Incrementally via Rebalancing" (LUCIR,
        CVPR), equation 6; Douillard et al. 2020, "PODNet", arXiv:2004.13513, equation 5.

    Example:
        >>> old = torch.tensor([[1.0, 0.0]])
        >>> Feature()(student_features=torch.tensor([[0.0, 3.0]]), old_features=old)
        tensor(1.)
        >>> Feature(distance="squared")(
        ...     student_features=torch.tensor([[0.0, 3.0]]), old_features=old)
        tensor(5.)
    """

    weight: Annotated[float, Field(ge=0), Range(0.0, 5.0)] = 1.0
    distance: Annotated[Literal["cosine", "squared"], Choice(("cosine", "squared"))] = "cosine"

    def __call__(
        self, *, student_features: torch.Tensor, old_features: torch.Tensor
    ) -> torch.Tensor:
        each = feature_distance(student_features, old_features, distance=self.distance)
        return self.weight * batch_mean(each)
