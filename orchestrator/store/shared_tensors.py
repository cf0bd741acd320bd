"""Tensors that are stored once by content, for all artifacts of a storage that hold them.

A file ``tensors/<SHA-256 of the file>`` is a safetensors file with one tensor. An update of the
head alone, for example, returns the trunk as it was: both artifacts refer to the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import safetensors.torch
from torch import Tensor

from orchestrator.store.filesystem import StorageBackend

FOLDER = "tensors"
SHARED_BYTES = 4096  # a smaller file takes a block of the disk, and a request, all the same
PARALLEL_FILES = 8

Put = Callable[[str, bytes], None]  # stores content under a path, once


class DamagedError(Exception):
    """A stored result that does not match its manifest.

    ``tensors`` are the names of shared tensors that do not match their names.
    """

    def __init__(self, text: str, tensors: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.tensors = tensors


def share(tensors: Mapping[str, Tensor], put: Put) -> dict[str, str]:
    """Store the tensors of at least 4 KiB and return their contents' names, by tensor name.

    Args:
        tensors: Contiguous tensors on the CPU.
        put: Stores a file.
    """
    large = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.numel() * tensor.element_size() >= SHARED_BYTES
    }

    def store(tensor: Tensor) -> str:
        content = safetensors.torch.save({"tensor": tensor})
        name = hashlib.sha256(content).hexdigest()
        put(path_of(name), content)
        return name

    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        return dict(zip(large, pool.map(store, large.values()), strict=True))


def fetch(backend: StorageBackend, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Read shared tensors and verify their contents.

    Args:
        backend: The storage.
        names: Name of the content, by tensor name.

    Raises:
        DamagedError: Contents are missing or do not match their names.
    """
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        contents = dict(
            zip(names, pool.map(lambda n: _read(backend, n), names.values()), strict=True)
        )
    lost = [names[key] for key, content in contents.items() if content is None]
    if lost:
        bad = tuple(name for name in lost if is_damaged(backend, name))
        raise DamagedError(f"{len(lost)} shared tensors are missing or damaged", bad)
    # copied, because tensors on the bytes of a file have another alignment, which changes the last
    # bit of sums
    return {
        key: safetensors.torch.load(content)["tensor"].clone()
        for key, content in contents.items()
        if content is not None
    }


def is_damaged(backend: StorageBackend, name: str) -> bool:
    """Say whether a shared tensor is there with another content than its name says."""
    content = backend.read(path_of(name))
    return content is not None and hashlib.sha256(content).hexdigest() != name


def path_of(name: str) -> str:
    """Return the path of a shared tensor in a storage."""
    return f"{FOLDER}/{name}"


def _read(backend: StorageBackend, name: str) -> bytes | None:
    """Return the content of a shared tensor; ``None`` if it is missing or damaged."""
    content = backend.read(path_of(name))
    return content if content and hashlib.sha256(content).hexdigest() == name else None
