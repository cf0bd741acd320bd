"""No calibration."""

from __future__ import annotations

import torch

from trainables.methods.calibrators import Calibrator


class NoCalibrator(Calibrator):
    """No calibration.

    Shapes:
        logits [B, C] -> the same tensor. The state is empty.

    Source:
        Identity, the baseline of all calibrators.

    Example:
        >>> NoCalibrator()(logits=torch.tensor([[1.0, 2.0]]), state={})
        tensor([[1., 2.]])
    """

    def fit(
        self, *, logits: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return an empty state."""
        return {}

    def __call__(
        self, *, logits: torch.Tensor, state: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        return logits
