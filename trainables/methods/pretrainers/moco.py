"""MoCo: a view of an image attracts its other view's key, a queue of earlier keys repels."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.pretrainers import Pretrainer


class MoCo(Pretrainer):
    """MoCo v2: a view attracts the key of the image's other view; earlier keys repel.

    ``loss = mean_i -log(exp(q_i k_i / T) / (exp(q_i k_i / T) + sum_j exp(q_i n_j / T)))`` with
    unit-norm queries q from trunk and projector, keys k from a copy of both that follows them
    slowly, and n the queue of earlier keys. Only the queries have a gradient. In a step the copy
    moves first, then come keys and loss with the queue as it was, then the queue takes the keys.

    The number of things that repel does not depend on the batch, so small batches do.

    Args:
        temperature: T > 0; 0.2 in MoCo v2 and in the long-tailed self-supervision of Yang and Xu.
        momentum: Share of itself that the copy keeps in each step, in [0, 1): 0.999 in the paper,
            for hundreds of thousands of steps; 0.99 to start with in solo-learn's CIFAR recipe.
        queue_size: Keys that are remembered, at least 1; 65536 in the paper. Never more than half
            of the training images: a longer queue holds an image's own earlier keys.
        output_dimension: Width P of queries and keys; 128 in the paper. The projector is linear,
            ReLU, linear, as wide inside as the features.

    Shapes:
        queries and keys ``[B, P]``, queue ``[K, P]`` (any lengths; made unit norm here) -> scalar.

    Lower is better; mean over the batch, 0 for an empty one, ``log(K + 1)`` when all are equal.
    Computed in float32 also under autocast.

    Source:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
        arXiv:1911.05722, equation 1; Chen et al. 2020, "Improved Baselines with Momentum
        Contrastive Learning" (v2), arXiv:2003.04297; reference code facebookresearch/moco,
        moco/builder.py.

    Example:
        The query equals its key and is orthogonal to the only earlier one: log(1 + 1 / e).

        >>> one, other = torch.eye(2).split(1)
        >>> MoCo(temperature=1.0)(queries=one, keys=one, queue=other)
        tensor(0.3133)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.2
    momentum: Annotated[float, Field(ge=0, lt=1), Range(0.9, 0.999)] = 0.99
    queue_size: Annotated[int, Field(ge=1)] = 4096
    output_dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int) -> torch.nn.Module:
        from trainables.projectors import Projector

        return Projector(
            num_features,
            hidden_dimension=num_features,
            output_dimension=self.output_dimension,
            batch_norm=False,
        )

    def __call__(
        self, *, queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor
    ) -> torch.Tensor:
        if len(queries) == 0:
            return full_precision(queries).sum()
        # autocast would take the product back to 16 bits: exp(1 / T) needs more digits
        with torch.autocast(queries.device.type, enabled=False):
            asked, answer, earlier = (
                torch.nn.functional.normalize(full_precision(rows), dim=1)
                for rows in (queries, keys.detach(), queue.detach())
            )
            own = (asked * answer).sum(dim=1, keepdim=True)
            logits = torch.cat([own, asked @ earlier.to(asked).T], dim=1) / self.temperature
        return torch.nn.functional.cross_entropy(
            logits, logits.new_zeros(len(logits), dtype=torch.int64)
        )
