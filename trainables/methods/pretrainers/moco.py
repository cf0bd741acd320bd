"""MoCo v2, momentum contrast with a queue."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.pretrainers import Pretrainer


class MoCo(Pretrainer):
    """MoCo v2, contrastive learning with a momentum encoder and a queue of negatives.

    ``loss = mean_i -log(exp(q_i k_i / T) / (exp(q_i k_i / T) + sum_j exp(q_i n_j / T)))`` with
    unit-norm queries q of trunk and projector, keys k of their momentum copy, and the queue n of
    earlier keys. Only the queries have a gradient. A step updates the copy, computes the keys and
    the loss with the current queue, then adds the keys to the queue.

    The number of negatives does not depend on the batch size, so small batches suffice.

    Args:
        temperature: T > 0; 0.2 in MoCo v2 and in the long-tailed self-supervision of Yang and Xu.
        momentum: Momentum of the copy, in [0, 1); 0.999 in the paper, which trains for hundreds of
            thousands of steps; initially 0.99 in solo-learn's CIFAR recipe.
        queue_size: Number of keys in the queue, at least 1; 65536 in the paper. Limited to half the
            number of training images, because a longer queue would contain earlier keys of the
            same image.
        output_dimension: Width P of queries and keys; 128 in the paper. The projector has two
            linear layers with a ReLU and the features' width as hidden width.

    Shapes:
        queries and keys ``[B, P]``, queue ``[K, P]`` (of any norm) -> scalar.

    Lower is better; mean over the batch, 0 for an empty batch, ``log(K + 1)`` if all vectors are
    equal. Computed in float32 even under autocast.

    Source:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
        arXiv:1911.05722, equation 1; Chen et al. 2020, "Improved Baselines with Momentum
        Contrastive Learning" (v2), arXiv:2003.04297; reference code facebookresearch/moco,
        moco/builder.py.

    Example:
        The query equals its key and is orthogonal to the only earlier key, so log(1 + 1 / e).

        >>> one, other = torch.eye(2).split(1)
        >>> MoCo(temperature=1.0)(queries=one, keys=one, queue=other)
        tensor(0.3133)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.2
    momentum: Annotated[float, Field(ge=0, lt=1), Range(0.9, 0.999)] = 0.99
    queue_size: Annotated[int, Field(ge=1)] = 4096
    output_dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int) -> torch.nn.Module:
        from trainables.models.projectors import Projector

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
        # without autocast, which would compute the product in 16 bits: too few for exp(1 / T)
        with torch.autocast(queries.device.type, enabled=False):
            query, key, negatives = (
                torch.nn.functional.normalize(full_precision(rows), dim=1)
                for rows in (queries, keys.detach(), queue.detach())
            )
            positive = (query * key).sum(dim=1, keepdim=True)
            logits = torch.cat([positive, query @ negatives.to(query).T], dim=1) / self.temperature
        return torch.nn.functional.cross_entropy(
            logits, logits.new_zeros(len(logits), dtype=torch.int64)
        )
