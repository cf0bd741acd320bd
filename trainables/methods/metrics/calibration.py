from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.metrics import Metric


class Calibration(Metric):
    """How far predicted probabilities are from what happens.

    With equal-width bins ``(low, high]`` of the largest probability, share s_b of the samples,
    accuracy a_b and mean probability c_b per bin: ``ece = sum_b s_b |a_b - c_b|`` and
    ``mce = max_b |a_b - c_b|``; ``classwise_ece`` = mean over classes of the same sum for that
    class's probability; ``brier = mean sum_c (p_c - y_c)^2``; ``nll = mean -log p_y``.

    Args:
        bins: Number of bins, >= 1; 15 in the paper. A probability of exactly 1 is in the last bin,
            of exactly 0 in the first.

    Shapes:
        logits [N, C], labels [N] int64 -> ``calibration/...``, each >= 0; lower = better. All but
        nll are at most 1, brier at most 2. Computed in float64.

    No sample gives an empty dictionary.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, eq. (3), (5);
        class-wise: Kull et al. 2019, arXiv 1910.12656; Brier 1950.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0]]).log().repeat(2, 1)
        >>> result = Calibration()(logits=logits, labels=torch.tensor([0, 1]))
        >>> round(result["calibration/ece"], 4), round(result["calibration/brier"], 4)
        (0.25, 0.625)
    """

    bins: Annotated[int, Field(ge=1)] = 15

    def __call__(self, *, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        if len(labels) == 0:
            return {}
        log_probability = logits.double().log_softmax(dim=1)
        probability = log_probability.exp()
        truth = torch.nn.functional.one_hot(labels, logits.shape[1]).double()
        top, prediction = probability.max(dim=1)
        share, gap = self.gaps(top, (prediction == labels).double())
        per_class = [self.gaps(probability[:, c], truth[:, c]) for c in range(probability.shape[1])]
        return {
            "calibration/ece": float((share * gap).sum()),
            "calibration/mce": float(gap.max()),
            "calibration/classwise_ece": float(
                torch.stack([(s * g).sum() for s, g in per_class]).mean()
            ),
            "calibration/brier": float((probability - truth).square().sum(dim=1).mean()),
            "calibration/nll": float(-log_probability.gather(1, labels[:, None]).mean()),
        }

    def gaps(
        self,
        probability: torch.Tensor,
        happened: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return per bin the share of samples and ``|frequency - mean probability|`` (0: empty).

        ``weights [N]`` are how much each sample counts; by default all alike.
        """
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)
        # the inner edges alone: bin 0 then holds 0, and the last one 1 and what rounding puts above
        index = torch.bucketize(probability.contiguous(), edges[1:-1].to(probability.device))
        weights = torch.ones_like(probability) if weights is None else weights.to(probability)
        counts = torch.bincount(index, weights=weights, minlength=self.bins)
        excess = torch.bincount(
            index, weights=weights * (happened - probability), minlength=self.bins
        )
        filled = torch.where(counts > 0, counts, 1.0)
        return counts.double() / weights.sum(), (excess / filled).abs()
