"""Distances between a student and its teachers, shared by the distillers."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import full_precision


def batch_mean(each: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples; 0 (with a gradient path) for an empty batch."""
    return each.sum() / max(each.numel(), 1)


def softened_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Return ``T^2 KL(softmax(t / T) || softmax(s / T))`` per sample.

    ``T^2`` keeps the size of the gradient independent of the temperature. No gradient flows to the
    teacher. With zero or one class the divergence is 0.

    Args:
        student_logits: ``[B, M]``.
        teacher_logits: ``[B, M]``.
        temperature: Positive; values above 1 give small probabilities more weight.

    Returns:
        ``[B]``, at least float32.

    Example:
        >>> softened_kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=4.0)
        tensor([0.])
    """
    if student_logits.shape[1] == 0:
        return full_precision(student_logits).sum(dim=1)
    teacher = full_precision(teacher_logits.detach()) / temperature
    log_teacher = torch.nn.functional.log_softmax(teacher, dim=1)
    log_student = torch.nn.functional.log_softmax(
        full_precision(student_logits) / temperature, dim=1
    )
    each = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * each


def old_block(student_logits: torch.Tensor, old_logits: torch.Tensor, owner: str) -> torch.Tensor:
    """Return the student's logits of the old model's classes (its first columns).

    Raises:
        ValueError: The student has fewer classes than the old model, or the batches differ.
    """
    batch, classes = old_logits.shape
    if student_logits.shape[0] != batch or student_logits.shape[1] < classes:
        raise ValueError(
            f"{owner}: student_logits must be [{batch}, at least {classes}] to match old_logits "
            f"{list(old_logits.shape)}; received {list(student_logits.shape)}"
        )
    return student_logits[:, :classes]


def feature_distance(
    student_features: torch.Tensor, old_features: torch.Tensor, *, distance: str
) -> torch.Tensor:
    """Return the distance between the student's and the old model's features, per sample.

    Args:
        student_features: ``[B, D]``.
        old_features: ``[B, D]``; receives no gradient.
        distance: ``"cosine"``: ``1 - cos``, in [0, 2]; ``"squared"``: the mean over D of the
            squared difference.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> feature_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]),
        ...     distance="cosine")
        tensor([1.])
    """
    if student_features.shape != old_features.shape:
        raise ValueError(
            "distillation: student_features and old_features must have one shape; "
            f"received {list(student_features.shape)} and {list(old_features.shape)}"
        )
    student, old = full_precision(student_features), full_precision(old_features.detach())
    if distance == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(student, old, dim=1)
    return (student - old).square().mean(dim=1)
