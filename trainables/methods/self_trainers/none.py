"""No self-training."""

from __future__ import annotations

import torch

from trainables.methods.self_trainers import SelfTrainer


class NoSelfTraining(SelfTrainer):
    """No self-training, so that unlabelled images are ignored.

    Shapes:
        logits ``[N, C]`` -> pseudo_labels ``[N]`` int64 (the most likely class), weights ``[N]``
        float32, all 0.

    Source:
        None: the baseline.

    Example:
        >>> NoSelfTraining()(logits=torch.tensor([[0.0, 1.0]]))
        (tensor([1]), tensor([0.]))
    """

    def __call__(self, *, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.argmax(1), torch.zeros(len(logits), device=logits.device)
