"""A batch that the memory of a device does not hold is computed in smaller pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from trainables.artifacts import Pixels

_log = logging.getLogger(__name__)

Pass = Callable[[Pixels], tuple[Tensor, dict[str, Tensor]]]


class InPieces:
    """Computes batches, in pieces of half as many images whenever a device runs out of memory.

    A size that did not fit is not tried again.

    Args:
        compute: Returns features ``[B, D]`` of images uint8 ``[B, H, W, 3]``, and others by name.

    Example:
        >>> import numpy as np
        >>> def compute(images):
        ...     if len(images) > 2:
        ...         raise torch.OutOfMemoryError
        ...     return torch.from_numpy(images[:, 0, 0].astype(np.float32)), {}
        >>> pieces = InPieces(compute)
        >>> pieces(np.ones((5, 4, 4, 3), dtype=np.uint8))[0].shape, pieces.most
        (torch.Size([5, 3]), 2)
    """

    def __init__(self, compute: Pass) -> None:
        self._compute = compute
        self.most: int | None = None  # images of a piece; ``None``: whole batches fit

    def __call__(self, images: Pixels) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features ``[B, D]`` and others by name, float32 on the CPU.

        Raises:
            torch.OutOfMemoryError: A single image does not fit.
        """
        found = []
        start = 0
        while start < len(images):
            piece = images[start : start + (self.most or len(images))]
            computed = self._fitting(piece)
            if computed is None:
                self.most = (len(piece) + 1) // 2
                _log.warning(
                    "out of memory with %d images at a time: %d now", len(piece), self.most
                )
                torch.cuda.empty_cache()  # does nothing without a GPU
                continue
            found.append(computed)
            start += len(piece)
        own = torch.cat([features for features, _ in found])
        return own, {name: torch.cat([more[name] for _, more in found]) for name in found[0][1]}

    def _fitting(self, piece: Pixels) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return what a piece gives; ``None``: it does not fit, and nothing holds its tensors."""
        try:
            own, others = self._compute(piece)
        except torch.OutOfMemoryError:
            if len(piece) == 1:
                raise
            return None
        return own.float().cpu(), {name: more.float().cpu() for name, more in others.items()}
