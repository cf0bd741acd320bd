"""RIDE loss for diverse experts."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import begun, class_prior, full_precision
from trainables.methods.losses import Loss
from trainables.methods.losses.ldam import LDAM
from trainables.methods.method import Choice, Range


class RIDE(Loss):
    """LDAM loss of each expert minus the expert's divergence from the mean of all experts.

    ``loss = sum_e LDAM(z_e, y) - diversity * T^2 * KL(softmax(mean z / T_c) || softmax(z_e /
    T_c))``; the mean has no gradient. From ``reweight_from`` on, LDAM weights classes and the
    temperature ``T_c`` is lower for rarer classes; ``T`` is its mean. Needs the head ``experts``.

    Args:
        diversity: Factor of the divergence, >= 0. Default 0.45 (reference recipe for CIFAR).
        temperature: T before ``reweight_from``, > 0. Default 1.
        spread: Relative decrease of ``T_c`` for rare classes, in [0, 1). Default 0.05.
        max_margin: Margin of the rarest class as a cosine, >= 0. Default 0.5, for experts with
            scaled cosine logits (``{experts: {base: cosine}}``); set 0 (cross-entropy) for others.
        scale: Scale of the experts' logits. Default 30.
        reweight_from: Fraction of training, in [0, 1]; ``null`` for never. Default 0.8. The
            reference code starts one epoch later.
        beta: Parameter of the effective number, in [0, 1). Default 0.9999.

    Shapes:
        logits ``[B, C]`` (the experts' mean), expert_logits ``[B, E, C]``, labels ``[B]`` int64,
        class_counts ``[C]``, progress in [0, 1] -> scalar.

    Lower is better; the sum over the experts of means over the batch; may be negative.

    Source:
        Wang et al. 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts",
        arXiv:2010.01809, equations 2 and 3; reference code frank-xwang/RIDE-LongTailRecognition,
        model/loss.py. RIDE's expert routing is the rebalancer ``expert_routing``.

    Example:
        >>> alike = torch.zeros(1, 2, 2)  # without margin and divergence, 2 log 2
        >>> RIDE(max_margin=0.0)(
        ...     logits=alike.mean(1), expert_logits=alike, labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([1, 1]))
        tensor(1.3863)
    """

    diversity: Annotated[float, Field(ge=0), Range(0.0, 0.6)] = 0.45
    temperature: Annotated[float, Field(gt=0), Range(0.5, 2.0, log=True)] = 1.0
    spread: Annotated[float, Field(ge=0, lt=1), Choice((0.02, 0.05))] = 0.05
    max_margin: Annotated[float, Field(ge=0, le=2), Choice((0.0, 0.3, 0.5))] = 0.5
    scale: Annotated[float, Field(gt=0, le=1000)] = 30.0
    reweight_from: Annotated[float | None, Field(ge=0, le=1), Choice((0.6, 0.8, 0.9))] = 0.8
    beta: Annotated[float, Field(ge=0, lt=1), Choice((0.99, 0.999, 0.9999))] = 0.9999

    def temperatures(self, class_counts: torch.Tensor) -> torch.Tensor:
        """Return ``T_c`` ``[C]`` after ``reweight_from``, float64, at most ``temperature``."""
        prior = class_prior(class_counts)
        scaled = len(prior) * prior * self.spread + 1 - self.spread
        return self.temperature * scaled / scaled.max()

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        expert_logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        progress: float = 0.0,
    ) -> torch.Tensor:
        experts, mean = full_precision(expert_logits), full_precision(logits).detach()
        temperature = torch.full_like(mean[0], self.temperature)
        if begun(self.reweight_from, progress):
            temperature = self.temperatures(class_counts).to(mean)
        # LDAM's margin must be positive, so a tiny margin replaces zero
        margin = LDAM(
            max_margin=self.max_margin or 1e-12,
            scale=self.scale,
            reweight_from=self.reweight_from,
            beta=self.beta,
        )
        target = (mean / temperature).softmax(dim=1)
        total = mean.new_zeros(())
        for expert in experts.unbind(dim=1):
            log_probability = (expert / temperature).log_softmax(dim=1)
            distance = torch.nn.functional.kl_div(log_probability, target, reduction="batchmean")
            total = total - self.diversity * temperature.mean().square() * distance
            total = total + margin(
                logits=expert, labels=labels, class_counts=class_counts, progress=progress
            )
        return total
