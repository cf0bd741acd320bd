"""Knowledge distillation from the old model."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.distillation import batch_mean, old_block, softened_kl
from trainables.methods.distillers import Distiller
from trainables.methods.method import Range


class KD(Distiller):
    """Knowledge distillation, the KL divergence from the old model's softened probabilities.

    ``loss = weight * T^2 * mean_i KL(softmax(t_i / T) || softmax(s_i[:C] / T))`` over the C old
    classes; the logits of new classes are ignored.

    Args:
        temperature: T > 0; 4 for CIFAR in the reference code.
        weight: Factor, at least 0; 0 disables the term. The reference code adds 0.9 times this loss
            and 0.1 times cross-entropy, which corresponds to weight 9.

    Shapes:
        student_logits ``[B, C + K]``, old_logits ``[B, C]`` -> scalar.

    Lower is nearer, 0 at equality (always with C = 1); mean over the batch, 0 for an empty batch.
    bf16 logits are computed in float32.

    Raises:
        ValueError: The student has fewer classes than the old model.

    Source:
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531,
        section 2; reference code megvii-research/mdistiller, mdistiller/distillers/KD.py.

    Example:
        Teacher 2:1, student 1:1, so KL = 2/3 ln(4/3) + 1/3 ln(2/3).

        >>> teacher = torch.tensor([[2.0, 1.0]]).log()
        >>> KD(temperature=1.0)(student_logits=torch.zeros(1, 3), old_logits=teacher)
        tensor(0.0566)
    """

    temperature: Annotated[float, Field(gt=0), Range(1.0, 8.0)] = 4.0
    weight: Annotated[float, Field(ge=0), Range(0.0, 5.0)] = 1.0

    def __call__(self, *, student_logits: torch.Tensor, old_logits: torch.Tensor) -> torch.Tensor:
        student = old_block(student_logits, old_logits, "distillers/kd")
        each = softened_kl(student, old_logits, temperature=self.temperature)
        return self.weight * batch_mean(each)
