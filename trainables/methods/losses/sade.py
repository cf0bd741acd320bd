"""SADE loss for three experts with different priors."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from trainables.functional.class_weights import class_prior, cross_entropy_each, full_precision
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class SADE(Loss):
    """Losses of three experts for long-tailed, uniform and inverse long-tailed test priors.

    ``loss = CE(z_1) + CE(z_2 + log pi) + CE(z_3 + log pi - tau log pi~)``, where ``pi~`` is the
    prior with reversed ranks. Requires the head ``experts`` with three experts.

    Args:
        tau: Strength of the third expert's inverse prior, >= 0. Default 2.

    Shapes:
        expert_logits ``[B, 3, C]``, labels ``[B]`` int64, class_counts ``[C]`` -> scalar.

    Lower is better; the sum of three means over the batch. 1e-9 is added inside logarithms, so that
    the prior of an absent class is finite.

    Raises:
        ValueError: There are not three experts.

    Source:
        Zhang et al. 2022, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic
        Long-Tailed Recognition", arXiv:2107.09249, equations 1 to 3; reference code
        Vanint/SADE-AgnosticLT, model/loss.py. The rebalancer ``expert_weights`` learns SADE's
        expert weights on unlabelled images; by default experts have equal weights.

    Example:
        >>> SADE()(  # with equal counts, 3 log 2
        ...     expert_logits=torch.zeros(1, 3, 2), labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([4, 4]))
        tensor(2.0794)
    """

    num_experts: ClassVar[int] = 3

    tau: Annotated[float, Field(ge=0, le=10), Range(0.5, 4.0)] = 2.0

    @staticmethod
    def inverse_prior(class_counts: torch.Tensor) -> torch.Tensor:
        """Return the prior ``[C]`` (float64) with reversed ranks; the rarest class has the largest.

        Example:
            >>> SADE.inverse_prior(torch.tensor([5, 1, 2])).tolist()
            [0.125, 0.625, 0.25]
        """
        prior = class_prior(class_counts)
        rank = prior.argsort().argsort()
        return prior.sort().values[len(prior) - 1 - rank]

    def __call__(
        self, *, expert_logits: torch.Tensor, labels: torch.Tensor, class_counts: torch.Tensor
    ) -> torch.Tensor:
        if expert_logits.shape[1] != self.num_experts:
            raise ValueError(f"losses/sade needs 3 experts; received {expert_logits.shape[1]}")
        first, second, third = full_precision(expert_logits).unbind(dim=1)
        prior = torch.log(class_prior(class_counts) + 1e-9).to(first)
        turned = torch.log(self.inverse_prior(class_counts) + 1e-9).to(first)
        shifted = (first, second + prior, third + prior - self.tau * turned)
        return torch.stack([cross_entropy_each(z, labels).mean() for z in shifted]).sum()
