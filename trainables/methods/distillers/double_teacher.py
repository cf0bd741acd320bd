"""Distillation from two teachers, the old model and the cluster teacher."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.functional.distillation import batch_mean, feature_distance, old_block, softened_kl
from trainables.methods.distillers import Distiller
from trainables.methods.method import Range


class DoubleTeacher(Distiller):
    """Two teachers: the old model on the C old classes, the cluster teacher on the K new classes.

    The cluster teacher's logits are cosines to cluster centers.
    ``variant="kd"``: ``a KD_T(s[:C], old) + b KD_T(s[C:], new) + c (1 - cos(f, f_old))`` with
    ``KD_T(s, t) = T^2 mean_i KL(softmax(t_i / T) || softmax(s_i / T))``, each softmax over the
    classes of one teacher. ``variant="dmc"``: ``mean_{i,k} w_k (s_ik - d_ik)^2``, where ``d`` are
    each teacher's logits minus their mean and ``w`` is a on old and b on new classes.

    Args:
        temperature: T > 0 (kd only); 4 as in `KD`.
        old_weight: a, at least 0; 0 disables the old model's term.
        new_weight: b, at least 0; 0 disables the cluster teacher's term.
        feature_weight: c, at least 0; values above 0 require both features. Default 0.
        variant: ``"kd"`` compares softened probabilities, ``"dmc"`` centered logits.

    Shapes:
        student_logits ``[B, C + K]``, old_logits ``[B, C]``, new_logits ``[B, K]``, optional
        student_features and old_features ``[B, D]`` -> scalar.

    Lower is nearer, 0 at equality; mean over the batch, 0 for an empty batch. In the kd variant a
    single new class (K = 1) has divergence 0 and no gradient.

    Raises:
        ValueError: The student has not C + K columns, or ``feature_weight`` > 0 without features.

    Source:
        Zhang et al. 2020, "Class-incremental Learning via Deep Model Consolidation",
        arXiv:1903.07864, equations 3-5 (dmc); Hinton et al. 2015, arXiv:1503.02531 (kd).

    Example:
        Old teacher 2:1, student 1:1; the cluster teacher and the student agree.

        >>> old, new = torch.tensor([[2.0, 1.0]]).log(), torch.zeros(1, 2)
        >>> loss = DoubleTeacher(temperature=1.0, old_weight=10.0)
        >>> loss(student_logits=torch.zeros(1, 4), old_logits=old, new_logits=new)
        tensor(0.5663)
    """

    temperature: Annotated[float, Field(gt=0), Range(1.0, 8.0)] = 4.0
    old_weight: Annotated[float, Field(ge=0), Range(0.0, 5.0)] = 1.0
    new_weight: Annotated[float, Field(ge=0), Range(0.0, 5.0)] = 1.0
    feature_weight: Annotated[float, Field(ge=0), Range(0.0, 5.0)] = 0.0
    variant: Literal["kd", "dmc"] = "kd"

    def __call__(
        self,
        *,
        student_logits: torch.Tensor,
        old_logits: torch.Tensor,
        new_logits: torch.Tensor,
        student_features: torch.Tensor | None = None,
        old_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        student_old = old_block(student_logits, old_logits, "distillers/double_teacher")
        student_new = student_logits[:, old_logits.shape[1] :]
        if student_new.shape != new_logits.shape:
            raise ValueError(
                "distillers/double_teacher: student_logits must have the columns of old_logits and "
                f"new_logits; received {list(student_logits.shape)} for {list(old_logits.shape)} "
                f"and {list(new_logits.shape)}"
            )
        loss = 0.0 * full_precision(student_logits).sum()
        # a term of weight 0 is skipped, because 0 times an infinite logit is NaN
        if self.old_weight:
            loss = loss + self.old_weight * self._term(student_old, old_logits, student_logits)
        if self.new_weight:
            loss = loss + self.new_weight * self._term(student_new, new_logits, student_logits)
        if self.feature_weight:
            loss = loss + self.feature_weight * _feature_term(student_features, old_features)
        return loss

    def _term(
        self, student: torch.Tensor, teacher: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        """Return one teacher's term; the dmc mean is over the classes of both teachers."""
        if self.variant == "kd":
            return batch_mean(softened_kl(student, teacher, temperature=self.temperature))
        target = full_precision(teacher.detach())
        target = target - target.mean(dim=1, keepdim=True)
        error = (full_precision(student) - target).square()
        return error.sum() / max(whole.numel(), 1)


def _feature_term(
    student_features: torch.Tensor | None, old_features: torch.Tensor | None
) -> torch.Tensor:
    """Return the mean cosine distance of the features."""
    if student_features is None or old_features is None:
        raise ValueError(
            "distillers/double_teacher: feature_weight > 0 needs student_features and "
            "old_features; pass both or set feature_weight to 0"
        )
    return batch_mean(feature_distance(student_features, old_features, distance="cosine"))
