"""Expert weights learned without labels, by the stability of predictions (SADE)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from trainables.functional.class_weights import full_precision
from trainables.training.optimizers import LeanSGD

MOMENTUM = 0.9


def stability(weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the stability of predictions between two views of the same images, in (0, 1].

    Stability is the mean cosine similarity of the two views' softmax outputs.

    Args:
        weights: Weights of the experts ``[E]``, summing to one.
        first: Every expert's logits of one view ``[B, E, C]``.
        second: Every expert's logits of another view ``[B, E, C]``.

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
    """Return weights ``[E]`` that maximize `stability`, a softmax of E trained parameters.

    The weights are initially equal. The optimizer is SGD with Nesterov momentum 0.9 and a constant
    learning rate.

    Args:
        epochs: For each epoch, the logits of two views of all images in one order, each
            ``[N, E, C]``.
        num_experts: E.
        device: Device of the views.
        batch_size: Images per step.
        lr: Learning rate.
        weight_decay: L2 penalty on the parameters of the softmax.
        smallest: Stop after an epoch in which a weight falls below this value, before one expert
            gets all the weight.
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
