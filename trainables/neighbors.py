"""Nearest neighbors by cosine."""

from __future__ import annotations

import torch

from trainables.kmeans import BLOCK_ELEMENTS, unit_rows


def neighbors(features: torch.Tensor, *, num_neighbors: int, with_self: bool) -> torch.Tensor:
    """Return the positions of the nearest rows by cosine, nearest first.

    Args:
        features: ``[N, D]``; made unit length here.
        num_neighbors: k, cut to the rows there are.
        with_self: Count a row as its own neighbor.

    Returns:
        ``[N, k]`` int64; ``[N, 0]`` where there are no other rows.
    """
    units = unit_rows(features)
    count = len(units)
    k = min(num_neighbors, count if with_self else count - 1)
    if k <= 0:
        return torch.zeros(count, 0, dtype=torch.int64, device=features.device)
    blocks = []
    everything = torch.arange(count, device=features.device)
    for rows in torch.split(everything, BLOCK_ELEMENTS // count + 1):
        similarity = units[rows] @ units.T
        if not with_self:
            similarity[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        blocks.append(similarity.topk(k, dim=1).indices)
    return torch.cat(blocks)
