"""Temperature scaling."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, model_validator

from trainables.functional.class_weights import full_precision
from trainables.methods.calibrators import Calibrator


class Temperature(Calibrator):
    """Temperature scaling: division of the logits by T, which minimizes the validation NLL.

    ``T = argmin_T mean_i -log softmax(f_i / T)_{y_i}``, searched in float64 over log T between the
    bounds; the minimum is unique because the loss is convex in 1/T. Predicted classes do not
    change.

    Args:
        lower: Smallest temperature, > 0; without the bound, T is 0 for perfectly separated
            validation data.
        upper: Largest temperature; without the bound, T is infinite for uninformative logits.
            Neither bound is from the paper.

    Shapes:
        fit: logits [N, C], labels [N] int64, weights [N] >= 0 (optional; by default equal) ->
        ``{"temperature": scalar float64}``.
        call: logits [B, C] -> [B, C], float32 (float64 for float64 input).

    T is 1 without validation samples or with a single class. Fit on a balanced split, because on a
    long-tailed split the frequent classes determine T.

    Raises:
        ValueError: ``lower`` is not below ``upper``.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2;
        gpleiss/temperature_scaling takes 50 L-BFGS steps, which can stop early (T = 1.022 where
        the optimum is 1.058); this implementation uses a bounded scalar search.

    Example:
        Three of four predictions are right at log-odds 2 log 3. Calibrated log-odds are log 3, so
        T = 2.

        >>> logits = torch.tensor([[9.0, 1.0]]).log().repeat(4, 1)
        >>> state = Temperature().fit(logits=logits, labels=torch.tensor([0, 0, 0, 1]))
        >>> round(state["temperature"].item(), 4)
        2.0
    """

    lower: Annotated[float, Field(gt=0)] = 0.05
    upper: Annotated[float, Field(gt=0)] = 20.0

    @model_validator(mode="after")
    def _bounds_enclose_something(self) -> Temperature:
        """Require ``lower < upper``."""
        if self.lower >= self.upper:
            raise ValueError(
                f"calibrators/temperature.lower: must be below upper ({self.upper}); "
                f"received {self.lower}"
            )
        return self

    def fit(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Fit the temperature on samples of known classes that the logits were not fitted to."""
        if len(labels) == 0 or logits.shape[1] < 2:
            return {"temperature": torch.ones((), dtype=torch.float64)}
        from scipy.optimize import minimize_scalar

        precise, target = logits.detach().double(), labels.long()

        def loss(log_temperature: float) -> float:
            scaled = precise / math.exp(log_temperature)
            if weights is None:
                return float(torch.nn.functional.cross_entropy(scaled, target))
            surprise = torch.nn.functional.cross_entropy(scaled, target, reduction="none")
            return float((weights * surprise).sum() / weights.sum())

        bounds = (math.log(self.lower), math.log(self.upper))
        best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
        return {"temperature": torch.tensor(math.exp(best.x), dtype=torch.float64)}

    def __call__(self, *, logits: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        scores = full_precision(logits)
        return scores / state["temperature"].to(scores)
