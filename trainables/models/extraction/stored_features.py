"""Features that a storage holds, image by image: whose they are, and which are missing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.artifacts import Images, content_digest
from trainables.context import FeatureStore
from trainables.keys import PACKAGE, code_digest

SAVE_SECONDS = 20.0  # an interrupted extraction loses this much at most
SAVE_ROWS = 8192


def image_names(images: Images, indices: np.ndarray[Any, np.dtype[np.int64]]) -> list[bytes]:
    """Return the name of each image by its content ``[N]``, 32 bytes each.

    An image file that is decoded when it is asked for is named by the bytes of the file and by how
    it is decoded; an image of an array by its pixels.

    Example:
        >>> images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
        >>> first, second = image_names(images, np.arange(2))
        >>> first == second
        True
    """
    names = getattr(images, "names", None)
    if names is not None:
        chosen: list[bytes] = names(indices)
        return chosen
    shape = str(images.shape[1:]).encode()
    return [hashlib.sha256(shape + images[index].tobytes()).digest() for index in indices]


def trunk_name(trunk: nn.Module) -> str:
    """Return a digest of a trunk's weights, structure, plain attributes and code.

    Statistics of batch norm, and the mean and deviation of the pixels, count as weights. A way of
    pooling may be an attribute alone.
    """
    plain = {
        "structure": repr(trunk),
        "attributes": {name: _attributes(module) for name, module in trunk.named_modules()},
        "code": code_digest((f"{PACKAGE}.models.backbone",)),
        "torch": ".".join(torch.__version__.split(".")[:2]),
        "timm": version("timm"),
    }
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in trunk.state_dict().items()
    }
    return content_digest(plain, state)


def _attributes(module: nn.Module) -> dict[str, object]:
    """Return the plain attributes of a module, without whether it trains."""
    plain = (str, int, float, bool)
    found: dict[str, object] = {
        name: value for name, value in vars(module).items() if isinstance(value, plain)
    }
    found.pop("training")
    return found


class FeaturesInMemory:
    """The features that one run of a recipe has computed; see `trainables.context.FeatureStore`.

    Example:
        >>> store, row = FeaturesInMemory(), torch.zeros(1, 2)
        >>> store.write("trunk", [b"image"], torch.ones(1, 2))
        >>> store.read("trunk", [b"image"], row), row
        (array([ True]), tensor([[1., 1.]]))
    """

    readings = False

    def __init__(self) -> None:
        self._rows: dict[tuple[str, bytes], Tensor] = {}

    def read(
        self, trunk: str, images: Sequence[bytes], into: Tensor
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Fill the rows ``[N, D]`` of the images that are known; return which are ``[N]``."""
        found = [self._rows.get((trunk, name)) for name in images]
        for row, known in zip(into, found, strict=True):
            if known is not None:
                row.copy_(known)
        return np.array([known is not None for known in found], dtype=np.bool_)

    def write(self, trunk: str, images: Sequence[bytes], features: Tensor) -> None:
        """Keep the features ``[N, D]`` of images."""
        for name, row in zip(images, features.unbind(), strict=True):
            self._rows[trunk, name] = row

    def alone(self, name: str) -> AbstractContextManager[None]:
        """Return a block of no effect, because one run uses this object."""
        return nullcontext()


class StoredRows:
    """Features of some images under one trunk: known ones are read, new ones kept as they come.

    As a context manager it writes what there is when the block ends, by an error too.

    Args:
        store: Where features are kept; ``None`` knows none and keeps none.
        trunk: The trunk.
        images: The images.
        indices: Those of a view ``[N]``.
        features: ``[N, D]`` float32; rows that the store has are filled in.
    """

    def __init__(
        self,
        store: FeatureStore | None,
        trunk: nn.Module,
        images: Images,
        indices: np.ndarray[Any, np.dtype[np.int64]],
        features: Tensor,
    ) -> None:
        self._store, self._features = store, features
        self._waiting: list[int] = []
        self._others: dict[str, list[Tensor]] = {}
        self._since = time.monotonic()
        self._copies: dict[int, int] = {}  # rows that equal an earlier row
        self.missing = list(range(len(indices)))
        if store is not None:
            self._trunk, self._names = trunk_name(trunk), image_names(images, indices)
            stored = store.read(self._trunk, self._names, features)
            self.missing = self._once(np.flatnonzero(~stored).tolist())

    def __enter__(self) -> StoredRows:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the rest, and fill in the rows of images that occur several times."""
        self._write()
        if self._copies:
            self._features[list(self._copies)] = self._features[list(self._copies.values())]

    def computed(self, rows: Sequence[int], others: Mapping[str, Tensor] | None = None) -> None:
        """Keep rows that were filled in; they are written from time to time.

        Args:
            rows: Positions in the view.
            others: Features ``[B, D]`` of these rows under other trunks, by the trunk's name.
        """
        self._waiting += rows
        for name, features in (others or {}).items():
            self._others.setdefault(name, []).append(features)
        if len(self._waiting) >= SAVE_ROWS or time.monotonic() - self._since > SAVE_SECONDS:
            self._write()

    def _once(self, rows: list[int]) -> list[int]:
        """Return each image's first row, and note the others."""
        first: dict[bytes, int] = {}
        for row in rows:
            same = first.setdefault(self._names[row], row)
            if same != row:
                self._copies[row] = same
        return list(first.values())

    def _write(self) -> None:
        if self._store is not None and self._waiting:
            names = [self._names[row] for row in self._waiting]
            self._store.write(self._trunk, names, self._features[self._waiting])
            for trunk, parts in self._others.items():
                self._store.write(trunk, names, torch.cat(parts))
        self._others.clear()
        self._waiting, self._since = [], time.monotonic()
