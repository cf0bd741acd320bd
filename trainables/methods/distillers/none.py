"""No distillation."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import full_precision
from trainables.methods.distillers import Distiller


class NoDistillation(Distiller):
    """No distillation (fine-tuning), the baseline that forgets most.

    ``loss = 0`` as a function of the student's logits, so that it has a (zero) gradient.

    Shapes:
        student_logits ``[B, C + K]`` -> scalar.

    Source:
        The "fine-tune" row of class-incremental tables, e.g. Zhou et al. 2023, "PyCIL",
        arXiv:2112.12533.

    Example:
        >>> NoDistillation()(student_logits=torch.ones(2, 3))
        tensor(0.)
    """

    def __call__(self, *, student_logits: torch.Tensor) -> torch.Tensor:
        return 0.0 * full_precision(student_logits).sum()
