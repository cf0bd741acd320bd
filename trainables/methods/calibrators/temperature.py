from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, model_validator

from trainables.class_weights import full_precision
from trainables.methods.calibrators import Calibrator


class Temperature(Calibrator):
    """Divides the logits by one number that makes the validation likelihood largest.

    ``T = argmin_T mean_i -log softmax(f_i / T)_{y_i}``, searched in float64 over log T between the
    bounds; the minimum is unique because the loss is convex in 1/T. Predictions do not change.

    Args:
        lower: Smallest temperature, > 0. Keeps perfectly separated validation data from T = 0.
        upper: Largest temperature; keeps useless logits from T = infinity. Neither bound is from
            the paper.

    Shapes:
        fit: logits [N, C], labels [N] int64 -> ``{"temperature": scalar float64}``.
        call: logits [B, C] -> [B, C], float32 (float64 for float64 input).

    Without validation samples, or with a single class, there is nothing to measure: T = 1.
    Fit on a balanced split, or the long tail decides the temperature.

    Raises:
        ValueError: ``lower`` is not below ``upper``.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2;
        gpleiss/temperature_scaling uses LBFGS for 50 steps, which can stop early (T = 1.022 where
        the optimum is 1.058), hence the bounded scalar search here.

    Example:
        Three of four right at log-odds 2 log 3: calibrated log-odds are log 3, so T = 2.

        >>> logits = torch.tensor([[9.0, 1.0]]).log().repeat(4, 1)
        >>> state = Temperature().fit(logits=logits, labels=torch.tensor([0, 0, 0, 1]))
        >>> round(state["temperature"].item(), 4)
        2.0
    """

    lower: Annotated[float, Field(gt=0)] = 0.05
    upper: Annotated[float, Field(gt=0)] = 20.0

    @model_validator(mode="after")
    def _bounds_enclose_something(self) -> Temperature:
        """Refuse bounds that enclose nothing."""
        if self.lower >= self.upper:
            raise ValueError(
                f"calibrators/temperature.lower: must be below upper ({self.upper}); "
                f"received {self.lower}"
            )
        return self

    def fit(self, *, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Search the temperature on validation samples of known classes."""
        if len(labels) == 0 or logits.shape[1] < 2:
            return {"temperature": torch.ones((), dtype=torch.float64)}
        from scipy.optimize import minimize_scalar

        precise, target = logits.detach().double(), labels.long()

        def loss(log_temperature: float) -> float:
            scaled = precise / math.exp(log_temperature)
            return float(torch.nn.functional.cross_entropy(scaled, target))

        bounds = (math.log(self.lower), math.log(self.upper))
        best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
        return {"temperature": torch.tensor(math.exp(best.x), dtype=torch.float64)}

    def __call__(self, *, logits: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        scores = full_precision(logits)
        return scores / state["temperature"].to(scores)
