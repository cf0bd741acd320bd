"""Batches in pieces: what does not fit is halved, every image is answered once, in its order."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.artifacts import ImageView
from trainables.models.backbone import Trunk, build_trunk, extract_features
from trainables.models.extraction.pieces import InPieces


class SmallMemory:
    """A pass that holds so many images; it notes the sizes that were tried."""

    def __init__(self, holds: int) -> None:
        self.holds, self.tried = holds, list[int]()

    def __call__(self, pixels: np.ndarray) -> tuple[Tensor, dict[str, Tensor]]:
        self.tried.append(len(pixels))
        if len(pixels) > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        values = torch.from_numpy(pixels[:, 0, 0].astype(np.float64))
        return values, {"doubled": 2 * values}


def numbered(count: int) -> np.ndarray:
    """Images of which each one has its number as its values."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def test_what_does_not_fit_is_halved_and_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = SmallMemory(holds=3)
    pieces = InPieces(memory)
    with caplog.at_level(logging.WARNING):
        own, others = pieces(numbered(11))
    assert memory.tried == [11, 6, 3, 3, 3, 2]
    assert own.dtype == torch.float32
    assert own[:, 0].tolist() == list(range(11))
    assert others["doubled"][:, 0].tolist() == list(range(0, 22, 2))
    assert "out of memory with 11 images at a time: 6 now" in caplog.text
    memory.tried.clear()
    assert pieces(numbered(7))[0][:, 0].tolist() == list(range(7))
    assert memory.tried == [3, 3, 1]


def test_whole_batches_that_fit_stay_whole() -> None:
    memory = SmallMemory(holds=8)
    InPieces(memory)(numbered(8))
    assert memory.tried == [8]


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        InPieces(SmallMemory(holds=0))(numbered(4))


def test_another_error_is_no_lack_of_memory() -> None:
    def broken(pixels: np.ndarray) -> tuple[Tensor, dict[str, Tensor]]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        InPieces(broken)(numbered(4))


def test_features_are_those_of_a_larger_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = build_trunk("fastnet", 32, generator=torch.Generator().manual_seed(1))
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    view = ImageView(images, np.arange(10)[::-1].copy(), "")
    whole = extract_features(trunk, view, batch_size=8)
    forward, sizes = Trunk.forward, []

    def limited(self: Trunk, batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, batch)

    monkeypatch.setattr(Trunk, "forward", limited)
    assert torch.allclose(extract_features(trunk, view, batch_size=8), whole, atol=1e-6)
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
