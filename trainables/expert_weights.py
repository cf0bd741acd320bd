"""Weights of experts that make predictions stable: learned without any label."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from trainables.class_weights import full_precision
from trainables.optimizers import LeanSGD

MOMENTUM = 0.9


def stability(weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return how alike two views of the same images are predicted, in (0, 1].

    The mean cosine of the softmax of both views' weighted logits.

    Args:
        weights: Of the experts ``[E]``, summing to one.
        first: Every expert's logits of one view ``[B, E, C]``.
        second: Those of another.

    Example:
        >>> logits = torch.randn(4, 3, 5)
        >>> round(float(stability(torch.full((3,), 1 / 3), logits, logits)), 6)
        1.0
    """
    seen = [(weights[:, None] * full_precision(view)).sum(dim=1) for view in (first, second)]
    one, other = (logits.softmax(dim=1) for logits in seen)
    return cosine_similarity(one, other, dim=1, eps=1e-6).mean()


def most_stable_weights(
    epochs: Iterable[tuple[Tensor, Tensor]],
    num_experts: int,
    *,
    device: torch.device | str = "cpu",
    batch_size: int,
    lr: float,
    weight_decay: float,
    smallest: float,
) -> Tensor:
    """Return weights ``[E]`` that maximise `stability`: a softmax of E numbers, trained by SGD.

    They start alike. Nesterov's momentum of 0.9, a constant learning rate.

    Args:
        epochs: Per pass two views of all images in one order, ``[N, E, C]`` each.
        num_experts: E.
        device: Where the views are.
        batch_size: Images per step.
        lr: Learning rate.
        weight_decay: L2 penalty on the numbers below the softmax.
        smallest: No further pass where a weight is below this: one expert would win all.
    """
    start = torch.full((num_experts,), 1 / num_experts, dtype=torch.float64, device=device)
    scores = nn.Parameter(start)
    optimizer = LeanSGD(
        [{"params": [scores], "lr": lr}],
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=weight_decay,
    )
    for views in epochs:
        for first, second in zip(*(view.split(batch_size) for view in views), strict=True):
            (gradient,) = torch.autograd.grad(
                -stability(scores.softmax(dim=0), first, second), scores
            )
            scores.grad = gradient
            optimizer.step()
        if bool((scores.softmax(dim=0) < smallest).any()):
            break
    return scores.detach().softmax(dim=0)
