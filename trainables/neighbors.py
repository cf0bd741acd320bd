"""Nearest neighbors by cosine, searched for once per feature set."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import torch

from trainables.kmeans import BLOCK_ELEMENTS, unit_rows

KEPT = 100  # neighbors that are kept: choosing more would take longer than comparing
MOST_SETS = 8  # a recipe compares four views: validation known and novel, pool, held-out


class _Found:
    """What was found for the feature sets that were asked about last, by what was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[object, ...], torch.Tensor] = OrderedDict()
        self.searches = 0

    def get(self, key: tuple[object, ...], num_neighbors: int) -> torch.Tensor | None:
        """Return so many columns, or ``None`` where fewer are known."""
        with self._lock:
            found = self._found.get(key)
            if found is None or found.shape[1] < num_neighbors:
                return None
            self._found.move_to_end(key)
            return found[:, :num_neighbors]

    def put(self, key: tuple[object, ...], found: torch.Tensor) -> None:
        """Keep a result, and forget the one that was not asked for longest."""
        with self._lock:
            self.searches += 1
            self._found[key] = found
            self._found.move_to_end(key)
            while len(self._found) > MOST_SETS:
                self._found.popitem(last=False)


_FOUND = _Found()


def searches() -> int:
    """Return how often this process has searched, instead of finding what it knew."""
    return _FOUND.searches


def nearest_cosines(
    rows: torch.Tensor, bank: torch.Tensor, *, num_neighbors: int, block: int
) -> torch.Tensor:
    """Return the cosines of each row with its nearest rows of a bank, largest first.

    On a CPU, where a search takes seconds, a second question about the same numbers is answered
    from memory, for any number of neighbors up to 100 or the last question's: scores with other k,
    and other heads on the same features, share it. On a GPU a search costs less than telling
    whether numbers are the same.

    Args:
        rows: ``[B, D]``, unit length.
        bank: ``[N, D]``, unit length, in the same precision.
        num_neighbors: k, from 1 to N.
        block: Rows that are compared at a time.

    Returns:
        ``[B, k]``; read it, never write it.
    """
    if rows.device.type != "cpu":
        return _cosines(rows, bank, num_neighbors, block)
    key = ("cosines", _digest(rows), _digest(bank))
    found = _FOUND.get(key, num_neighbors)
    if found is None:
        kept = min(len(bank), max(num_neighbors, KEPT))
        found = _cosines(rows, bank, kept, block)
        _FOUND.put(key, found)
    return found[:, :num_neighbors]


def neighbors(features: torch.Tensor, *, num_neighbors: int, with_self: bool) -> torch.Tensor:
    """Return the positions of the nearest rows by cosine, nearest first.

    The same question about the same numbers is answered from memory (see `nearest_cosines`).

    Args:
        features: ``[N, D]``; made unit length here.
        num_neighbors: k, cut to the rows there are.
        with_self: Count a row as its own neighbor.

    Returns:
        ``[N, k]`` int64; ``[N, 0]`` where there are no other rows. Read it, never write it.
    """
    count = len(features)
    k = min(num_neighbors, count if with_self else count - 1)
    if k <= 0:
        return torch.zeros(count, 0, dtype=torch.int64, device=features.device)
    if features.device.type != "cpu":
        return _positions(unit_rows(features), k, with_self)
    key = ("positions", _digest(features), with_self, k)
    found = _FOUND.get(key, k)
    if found is None:
        found = _positions(unit_rows(features), k, with_self)
        _FOUND.put(key, found)
    return found


def _cosines(rows: torch.Tensor, bank: torch.Tensor, k: int, block: int) -> torch.Tensor:
    """Compare every row with the whole bank."""
    parts = [(part @ bank.T).topk(k, dim=1).values for part in rows.split(block)]
    return torch.cat(parts) if parts else rows.new_zeros(0, k)


def _positions(units: torch.Tensor, k: int, with_self: bool) -> torch.Tensor:
    """Compare every row with all rows."""
    count, blocks = len(units), []
    everything = torch.arange(count, device=units.device)
    for rows in torch.split(everything, BLOCK_ELEMENTS // count + 1):
        similarity = units[rows] @ units.T
        if not with_self:
            similarity[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        blocks.append(similarity.topk(k, dim=1).indices)
    return torch.cat(blocks)


def _digest(values: torch.Tensor) -> tuple[object, ...]:
    """Return what is the same for the same numbers in the same shape and precision."""
    raw = values.detach().contiguous().view(torch.uint8).numpy()
    return (str(values.dtype), *values.shape, hashlib.blake2b(raw.data).hexdigest())
