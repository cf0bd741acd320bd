from __future__ import annotations

import torch

from trainables.methods.calibrators import Calibrator


class NoCalibrator(Calibrator):
    """Leaves the logits as they are.

    Shapes:
        logits [B, C] -> the same tensor. The state is empty.

    Source:
        The baseline every calibrator is compared with.

    Example:
        >>> NoCalibrator()(logits=torch.tensor([[1.0, 2.0]]), state={})
        tensor([[1., 2.]])
    """

    def fit(
        self, *, logits: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the empty state: there is nothing to fit."""
        return {}

    def __call__(
        self, *, logits: torch.Tensor, state: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        return logits
