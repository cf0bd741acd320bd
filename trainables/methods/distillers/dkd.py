"""Decoupled knowledge distillation."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.functional.distillation import batch_mean, old_block, softened_kl
from trainables.methods.distillers import Distiller
from trainables.methods.method import Range


class DKD(Distiller):
    """Decoupled knowledge distillation with separate target-class and non-target-class terms.

    ``loss = mean_i T^2 (alpha KL(b^t || b^s) + beta KL(q^t || q^s))`` with ``b = (p_y, 1 - p_y)``
    and ``q`` the softmax over the classes other than y, all over the C old classes at temperature
    T. `KD` is the case ``alpha = 1, beta = 1 - p^t_y`` of each sample.

    Args:
        alpha: Weight of the target-class term, at least 0; 1 for CIFAR in the reference code.
        beta: Weight of the non-target-class term, at least 0; 8 in the reference code, which
            increases it over the first 20 epochs.
        temperature: T > 0; 4 in the reference code.

    Shapes:
        student_logits ``[B, C + K]``, old_logits ``[B, C]``, optional labels ``[B]`` int64 ->
        scalar. Without labels, and where a label is a new class, y is the old model's prediction.

    Lower is nearer, 0 at equality; mean over the batch, 0 for an empty batch and for C = 1. With
    C = 2 the non-target-class term is 0. Computed from log-probabilities in float32, because the
    logarithm of a probability, as in the reference code, can underflow.

    Raises:
        ValueError: The student has fewer classes than the old model.

    Source:
        Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679, equation 7;
        reference code megvii-research/mdistiller, mdistiller/distillers/DKD.py.

    Example:
        With two classes only the target-class term is left, 2/3 ln(4/3) + 1/3 ln(2/3).

        >>> teacher = torch.tensor([[2.0, 1.0]]).log()
        >>> DKD(temperature=1.0)(
        ...     student_logits=torch.zeros(1, 2), old_logits=teacher, labels=torch.tensor([0]))
        tensor(0.0566)
    """

    alpha: Annotated[float, Field(ge=0), Range(0.0, 2.0)] = 1.0
    beta: Annotated[float, Field(ge=0), Range(0.0, 10.0)] = 8.0
    temperature: Annotated[float, Field(gt=0), Range(1.0, 8.0)] = 4.0

    def __call__(
        self,
        *,
        student_logits: torch.Tensor,
        old_logits: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        student = full_precision(old_block(student_logits, old_logits, "distillers/dkd"))
        teacher = full_precision(old_logits.detach())
        if teacher.shape[1] < 2 or len(teacher) == 0:
            return 0.0 * student.sum()
        target = teacher.argmax(dim=1)
        if labels is not None:
            target = torch.where(labels < teacher.shape[1], labels, target)
        each = self.alpha * softened_kl(
            _target_or_rest(student / self.temperature, target),
            _target_or_rest(teacher / self.temperature, target),
            temperature=1.0,
        ) + self.beta * softened_kl(
            _other_logits(student, target) / self.temperature,
            _other_logits(teacher, target) / self.temperature,
            temperature=1.0,
        )
        return self.temperature**2 * batch_mean(each)


def _other_logits(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the logits of the non-target classes ``[B, C - 1]``."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    return logits[classes != target[:, None]].view(len(logits), -1)


def _target_or_rest(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return two logits ``[B, 2]`` whose softmax is (p_target, 1 - p_target)."""
    rest = torch.logsumexp(_other_logits(logits, target), dim=1)
    return torch.stack([logits.gather(1, target[:, None]).squeeze(1), rest], dim=1)
