"""Learning without forgetting."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.functional.distillation import batch_mean, old_block
from trainables.methods.distillers import Distiller
from trainables.methods.method import Range


class LwF(Distiller):
    """Learning without forgetting, the cross-entropy to the old model's softened probabilities.

    ``loss = weight * mean_i -sum_c softmax(t_i / T)_c log softmax(s_i[:C] / T)_c``. Unlike `KD`,
    the loss has no factor ``T^2``, and its minimum is the old model's entropy instead of 0.

    Args:
        temperature: T > 0; 2 in the paper.
        weight: Factor, at least 0; 0 disables the term. 1 in the paper, 3 in the reference code.

    Shapes:
        student_logits ``[B, C + K]``, old_logits ``[B, C]`` -> scalar.

    Lower is nearer; mean over the batch, 0 for an empty batch or C = 1. bf16 logits are computed in
    float32.

    Raises:
        ValueError: The student has fewer classes than the old model.

    Source:
        Li and Hoiem 2016, "Learning without Forgetting", arXiv:1606.09282, equations 2-3; reference
        code G-U-N/PyCIL, models/lwf.py.

    Example:
        Teacher and student 1:1, so the loss is the entropy ln 2.

        >>> LwF()(student_logits=torch.zeros(1, 3), old_logits=torch.zeros(1, 2))
        tensor(0.6931)
    """

    temperature: Annotated[float, Field(gt=0), Range(1.0, 8.0)] = 2.0
    weight: Annotated[float, Field(ge=0), Range(0.0, 5.0)] = 1.0

    def __call__(self, *, student_logits: torch.Tensor, old_logits: torch.Tensor) -> torch.Tensor:
        student = full_precision(old_block(student_logits, old_logits, "distillers/lwf"))
        teacher = full_precision(old_logits.detach())
        target = torch.softmax(teacher / self.temperature, dim=1)
        log_student = torch.nn.functional.log_softmax(student / self.temperature, dim=1)
        return self.weight * batch_mean(-(target * log_student).sum(dim=1))
