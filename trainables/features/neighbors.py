"""Nearest neighbors by cosine similarity, cached per feature set."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import torch

from trainables.features.kmeans import BLOCK_ELEMENTS, unit_rows

KEPT = 100  # cached neighbors per row; selecting more takes longer than the matrix product
MOST_SETS = 8  # a recipe searches four views: validation known and novel, pool, held-out


class _NeighborCache:
    """LRU cache of search results by query; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: OrderedDict[tuple[object, ...], torch.Tensor] = OrderedDict()
        self.searches = 0

    def get(self, key: tuple[object, ...], num_neighbors: int) -> torch.Tensor | None:
        """Return the first ``num_neighbors`` columns, or ``None`` if fewer are cached."""
        with self._lock:
            result = self._results.get(key)
            if result is None or result.shape[1] < num_neighbors:
                return None
            self._results.move_to_end(key)
            return result[:, :num_neighbors]

    def put(self, key: tuple[object, ...], result: torch.Tensor) -> None:
        """Store a result, and drop the least recently used results beyond the limit."""
        with self._lock:
            self.searches += 1
            self._results[key] = result
            self._results.move_to_end(key)
            while len(self._results) > MOST_SETS:
                self._results.popitem(last=False)


_CACHE = _NeighborCache()


def searches() -> int:
    """Return the number of searches in this process that the cache did not answer."""
    return _CACHE.searches


def nearest_cosines(
    rows: torch.Tensor, bank: torch.Tensor, *, num_neighbors: int, block: int
) -> torch.Tensor:
    """Return the cosines of each row with its nearest rows of a bank, largest first.

    On a CPU, where a search takes seconds, results are cached for at least 100 neighbors, so that
    scores with another k and other heads on the same features share one search. On a GPU a search
    takes less time than a digest of the features.

    Args:
        rows: ``[B, D]``, of unit norm.
        bank: ``[N, D]``, of unit norm, in the same precision.
        num_neighbors: k, from 1 to N.
        block: Number of rows per matrix product.

    Returns:
        ``[B, k]``; may be a cached tensor, so do not modify it.
    """
    if rows.device.type != "cpu":
        return _cosines(rows, bank, num_neighbors, block)
    key = ("cosines", _digest(rows), _digest(bank))
    cosines = _CACHE.get(key, num_neighbors)
    if cosines is None:
        kept = min(len(bank), max(num_neighbors, KEPT))
        cosines = _cosines(rows, bank, kept, block)
        _CACHE.put(key, cosines)
    return cosines[:, :num_neighbors]


def neighbors(features: torch.Tensor, *, num_neighbors: int, with_self: bool) -> torch.Tensor:
    """Return the positions of each row's nearest rows by cosine, nearest first.

    Results are cached on a CPU (see `nearest_cosines`).

    Args:
        features: ``[N, D]``, of any norm.
        num_neighbors: k, cut to the number of rows.
        with_self: Count a row as a neighbor of itself.

    Returns:
        ``[N, k]`` int64, ``[N, 0]`` without other rows; may be a cached tensor, so do not modify
        it.
    """
    count = len(features)
    k = min(num_neighbors, count if with_self else count - 1)
    if k <= 0:
        return torch.zeros(count, 0, dtype=torch.int64, device=features.device)
    if features.device.type != "cpu":
        return _positions(unit_rows(features), k, with_self)
    key = ("positions", _digest(features), with_self, k)
    positions = _CACHE.get(key, k)
    if positions is None:
        positions = _positions(unit_rows(features), k, with_self)
        _CACHE.put(key, positions)
    return positions


def _cosines(rows: torch.Tensor, bank: torch.Tensor, k: int, block: int) -> torch.Tensor:
    """Search the bank for the nearest rows of each row, and return their cosines."""
    parts = [(part @ bank.T).topk(k, dim=1).values for part in rows.split(block)]
    return torch.cat(parts) if parts else rows.new_zeros(0, k)


def _positions(units: torch.Tensor, k: int, with_self: bool) -> torch.Tensor:
    """Search all rows for the nearest rows of each row, and return their positions."""
    count, blocks = len(units), []
    everything = torch.arange(count, device=units.device)
    for rows in torch.split(everything, BLOCK_ELEMENTS // count + 1):
        similarity = units[rows] @ units.T
        if not with_self:
            similarity[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        blocks.append(similarity.topk(k, dim=1).indices)
    return torch.cat(blocks)


def _digest(values: torch.Tensor) -> tuple[object, ...]:
    """Return a digest of a tensor's precision, shape and contents."""
    raw = values.detach().contiguous().view(torch.uint8).numpy()
    return (str(values.dtype), *values.shape, hashlib.blake2b(raw.data).hexdigest())
