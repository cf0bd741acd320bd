"""Features of frozen trunks in a storage, image by image, for every sweep that uses the trunk.

They lie in ``features/<trunk>/<digest>``: files of some thousand rows, named by the SHA-256 of
their content, each written in one step and never changed. Many processes may add files at once; an
image that two of them computed is there twice.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from orchestrator.store.filesystem import StorageBackend
from orchestrator.store.leases import Leases

logger = logging.getLogger(__name__)

FOLDER = "features"
NAME_BYTES = 32  # of an image
WAIT_SECONDS = 0.2


class Shard(NamedTuple):
    """A file: the names of images and their features ``[N, D]``."""

    names: list[bytes]
    features: Tensor


class FeatureShards:
    """The features of one storage; see `trainables.context.FeatureStore`.

    Args:
        backend: The storage.
        leases: Let one process at a time work on features that others wait for.
    """

    def __init__(self, backend: StorageBackend, leases: Leases | None = None) -> None:
        self._backend, self._leases = backend, leases
        self.readings = False
        self.written = 0  # features that were computed and stored
        self._names: dict[str, frozenset[bytes]] = {}  # of files that were read, by path

    def read(
        self, trunk: str, images: Sequence[bytes], into: Tensor
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Fill the rows ``[N, D]`` of the images that are stored; return which are ``[N]``."""
        wanted: dict[bytes, list[int]] = {}
        for row, name in enumerate(images):
            wanted.setdefault(name, []).append(row)
        found = np.zeros(len(images), dtype=np.bool_)
        for path in self._paths(trunk):
            if not wanted:
                break
            if self._names.get(path, wanted.keys()).isdisjoint(wanted):
                continue
            shard = self._load(path)
            pairs = [
                (row, position)
                for position, name in enumerate(shard.names)
                for row in wanted.pop(name, ())
            ]
            if pairs:
                rows, positions = zip(*pairs, strict=True)
                into[list(rows)] = shard.features[list(positions)]
                found[list(rows)] = True
        return found

    def write(self, trunk: str, images: Sequence[bytes], features: Tensor) -> None:
        """Store the features ``[N, D]`` float32 of images in a new file."""
        names = np.frombuffer(b"".join(images), dtype=np.uint8).reshape(-1, NAME_BYTES)
        tensors = {"names": torch.from_numpy(names.copy()), "features": features.contiguous()}
        content = safetensors.torch.save(tensors)
        path = f"{FOLDER}/{trunk}/{hashlib.sha256(content).hexdigest()}"
        self._backend.put(path, content)
        self._names[path] = frozenset(images)
        self.written += len(images)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until no other process is in a block of this name, then be in it."""
        if self._leases is None:
            yield
            return
        while (lease := self._leases.try_acquire(f"features/{name}")) is None:
            time.sleep(WAIT_SECONDS)
        try:
            yield
        finally:
            lease.release()

    def _paths(self, trunk: str) -> list[str]:
        """Return the files of a trunk's features; drafts have other names."""
        folder = f"{FOLDER}/{trunk}"
        names = sorted(entry.name for entry in self._backend.entries(folder))
        return [f"{folder}/{name}" for name in names if re.fullmatch("[0-9a-f]{64}", name)]

    def _load(self, path: str) -> Shard:
        """Return a file's rows; none if it is damaged, which is then set aside."""
        content = self._backend.read(path)
        if content is None or hashlib.sha256(content).hexdigest() != path.rpartition("/")[2]:
            logger.warning(
                "%s/%s is damaged; its features are computed again", self._backend.uri, path
            )
            self._backend.set_aside(path, f"damaged/{path}")
            return Shard([], torch.empty(0))
        tensors = safetensors.torch.load(content)
        text = tensors["names"].numpy().tobytes()
        names = [text[at : at + NAME_BYTES] for at in range(0, len(text), NAME_BYTES)]
        self._names[path] = frozenset(names)
        return Shard(names, tensors["features"])
