"""LRU cache of stage results within a process, for the trials of a reused actor."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

MEMORY_BYTES = 512 * 2**20


class Entry(NamedTuple):
    """A cached value, its tensors, its bytes, and the number of in-place writes when cached."""

    value: Any
    tensors: list[torch.Tensor]
    size: int
    writes: int


class ResultCache:
    """LRU cache with a limit on the bytes of its values.

    Values are shared, not copied. A value whose tensors were written to in place after caching is
    dropped instead of returned.

    Args:
        limit: Largest sum of tensor bytes (1 KiB is added per value); a larger value is not cached.
    """

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Any:
        """Return the value of a name; ``None`` if it is not cached."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            if writes(entry.tensors) != entry.writes:
                self._forget(name)
                return None
            self._entries.move_to_end(name)
            return entry.value

    def put(self, name: str, value: Any) -> None:
        """Cache a value and drop the least recently used values until all fit."""
        found = list(tensors(value))
        size = 1024 + sum(t.numel() * t.element_size() for t in found)
        with self._lock:
            self._forget(name)
            if size > self.limit:
                return
            self._entries[name] = Entry(value, found, size, writes(found))
            self.size += size
            while self.size > self.limit:
                self._forget(next(iter(self._entries)))

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._entries.clear()
            self.size = 0

    def _forget(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.size -= entry.size


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def writes(found: Iterable[torch.Tensor]) -> int:
    """Return the number of in-place writes to tensors; inference tensors do not count them."""
    return sum(0 if t.is_inference() else t._version for t in found)


@cache
def result_cache_of(storage: str) -> ResultCache:
    """Return this process's cache of a storage, shared by all stores of the storage."""
    return ResultCache()
