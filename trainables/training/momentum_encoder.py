"""A slowly following copy of an encoder, and a queue of what it said of earlier images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainables.context import Context
from trainables.functional.class_weights import full_precision
from trainables.training.distributed import gathered


class MomentumKeys(nn.Module):
    """Keys of images from a moving average of an encoder, and a queue of earlier ones (MoCo).

    Per step, in this order: `follow` moves the copy, a call computes the keys and gives them with
    the queue as it was, and then puts them into the queue in the place of the oldest. Nothing here
    has a gradient. All workers hold the same queue, of the keys of all.

    With several workers the images are shuffled among them before they are encoded, and the keys
    put back: batch statistics of one worker would else tell which key belongs to which query.

    Args:
        encoder: Images to projections ``[B, P]``; copied with its mode.
        queue: First content of the queue ``[K, P]``, made unit norm; alike on all workers.
        momentum: Share of itself that the copy keeps in a step, in [0, 1).

    Source:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
        arXiv:1911.05722, algorithm 1 and section 3.3 (shuffling BN); reference code
        facebookresearch/moco, moco/builder.py, whose queue must be a multiple of the batch.

    Example:
        >>> encoder = nn.Linear(2, 2, bias=False)
        >>> keys = MomentumKeys(encoder, torch.eye(2)[:1], momentum=0.9)
        >>> found, queue = keys(torch.zeros(3, 2), order=torch.arange(3), context=Context())
        >>> found.shape, queue
        (torch.Size([3, 2]), tensor([[1., 0.]]))
    """

    queue: Tensor
    oldest: Tensor

    def __init__(self, encoder: nn.Module, queue: Tensor, *, momentum: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum
        self.register_buffer("queue", normalize(full_precision(queue), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """Move every parameter to ``momentum * own + (1 - momentum) * encoder``; no buffer."""
        for own, other in zip(self.encoder.parameters(), encoder.parameters(), strict=True):
            own.lerp_(other, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, images: Tensor, *, order: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return the keys of this worker's images ``[B, P]`` and the queue before them ``[K, P]``.

        Args:
            images: As many on every worker.
            order: A permutation of the images of all workers, alike on all of them.
            context: Rank and number of workers.
        """
        keys, before = self._keys(images, order, context), self.queue.clone()
        self._remember(keys)
        start = context.rank * len(images)
        return keys[start : start + len(images)], before

    def _keys(self, images: Tensor, order: Tensor, context: Context) -> Tensor:
        """Return the keys of all workers' images, unit norm, in the order of the workers."""
        if context.world_size == 1:  # one worker's statistics are those of the whole batch
            return normalize(full_precision(self.encoder(images)), dim=1)
        order = order.to(images.device)
        mine = order.chunk(context.world_size)[context.rank]
        shuffled = gathered(images, context)[mine]
        found = gathered(normalize(full_precision(self.encoder(shuffled)), dim=1), context)
        keys = torch.empty_like(found)
        keys[order] = found
        return keys

    def _remember(self, keys: Tensor) -> None:
        """Put the newest keys in the place of the oldest."""
        size = len(self.queue)
        newest = keys[-size:].to(self.queue)
        places = (self.oldest + torch.arange(len(newest), device=newest.device)) % size
        self.queue[places] = newest
        self.oldest.add_(len(newest)).remainder_(size)
