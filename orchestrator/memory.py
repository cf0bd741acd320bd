"""Results that this process has read, so that a reused trial actor does not read them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

MEMORY_BYTES = 512 * 2**20


class Entry(NamedTuple):
    """A kept value, its tensors, its size, and how often they had been written to when it came."""

    value: Any
    tensors: list[torch.Tensor]
    size: int
    writes: int


class Memory:
    """The values used last, up to a size; the one unused for longest goes first.

    Values are shared, not copied. One whose tensors were written to in place since it came is
    forgotten instead of handed out.

    Args:
        limit: Most bytes of tensors (1 KiB is added per value); larger values are not kept.
    """

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Any:
        """Return the value of that name, or ``None``."""
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
        """Keep a value, and forget old ones until it fits."""
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
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.size = 0

    def _forget(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.size -= entry.size


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def writes(found: Iterable[torch.Tensor]) -> int:
    """Return how often tensors were written to in place (inference tensors do not count)."""
    return sum(0 if t.is_inference() else t._version for t in found)


@cache
def memory_of(storage: str) -> Memory:
    """Return this process's memory of a storage, the same one for all its stores."""
    return Memory()
