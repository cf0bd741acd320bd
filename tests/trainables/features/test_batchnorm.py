"""Shifted batch norm: what moves, how far, and that nothing else does."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainables.artifacts import Backbone, ImageView, LabelledView
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Extract
from trainables.features.batchnorm import shift_batchnorm
from trainables.features.head_training import class_balanced_draws
from trainables.models.backbone import Trunk, build_trunk, to_artifact
from trainables.stages import extract

SIZE = 16
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def view(counts: tuple[int, ...] = (27, 3)) -> LabelledView:
    """Return images whose brightness tells the class, with some noise."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(0).integers(0, 40, (len(labels), SIZE, SIZE, 3))
    images = (40 + 150 * labels[:, None, None, None] + noise).astype(np.uint8)
    return LabelledView(images, np.arange(len(labels)), labels, len(counts), "view")


def trained_trunk() -> Trunk:
    """Return a trunk whose batch norm has seen the images as they come."""
    trunk = build_trunk("fastnet", SIZE).train()
    images = torch.from_numpy(view().images).permute(0, 3, 1, 2)
    for _ in range(3):
        trunk(images)
    return trunk.eval()


def hashes(backbone: Backbone) -> dict[str, str]:
    """Return a hash of every parameter and buffer, by name."""
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in backbone.state.items()
    }


def extracted(backbone: Backbone, **settings: Any) -> extract.Extracted:
    known = view()
    pool = ImageView(known.images, known.indices, "pool")
    return extract.run(
        Extract(**settings),
        backbone=backbone,
        known_train=known,
        validation_known=known,
        validation_novel=known,
        pool=pool,
        context=Context(),
    )


def test_frozen_leaves_every_parameter_and_buffer_bit_by_bit() -> None:
    backbone = to_artifact(trained_trunk(), "fastnet", SIZE)
    before = hashes(backbone)
    assert hashes(extracted(backbone).backbone) == before
    assert hashes(backbone) == before


def test_shifted_moves_all_running_statistics_and_nothing_else() -> None:
    backbone = to_artifact(trained_trunk(), "fastnet", SIZE)
    before = hashes(backbone)
    result = extracted(backbone, batchnorm="shifted", shift_steps=5, shift_batch_size=16)
    after = hashes(result.backbone)
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {name for name in before if name.rpartition(".")[2] in STATISTICS}
    assert moved
    assert hashes(backbone) == before, "the given trunk is an input of others too"
    assert not torch.allclose(result.stream_features.pool, extracted(backbone).stream_features.pool)


def test_the_shifted_trunk_gives_the_features_that_are_stored_and_repeats() -> None:
    backbone = to_artifact(trained_trunk(), "fastnet", SIZE)
    settings = {"batchnorm": "shifted", "shift_steps": 3, "shift_batch_size": 16}
    first, again = extracted(backbone, **settings), extracted(backbone, **settings)
    assert hashes(first.backbone) == hashes(again.backbone)
    assert torch.equal(first.stream_features.pool, extracted(first.backbone).stream_features.pool)


class Brightness(nn.Module):
    """Batch norm on the pixels, dropout, and the mean of each color as feature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(3, momentum=0.3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.dropout(self.norm(images)).mean((2, 3))
        return normed


def plain_trunk(network: nn.Module) -> Trunk:
    return Trunk(network, 3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_statistics_equal_their_oracle() -> None:
    network, known = Brightness(), view()
    generator = torch.Generator().manual_seed(3)
    shift_batchnorm(plain_trunk(network), known, steps=4, batch_size=8, generator=generator)
    draws = class_balanced_draws(
        torch.from_numpy(known.labels), num_draws=32, generator=torch.Generator().manual_seed(3)
    )
    mean, variance = [0.0] * 3, [1.0] * 3
    for batch in draws.view(4, 8).tolist():
        for color in range(3):
            pixels = known.images[batch][..., color].astype(float).ravel() / 255
            mean[color] = 0.9 * mean[color] + 0.1 * pixels.mean()
            variance[color] = 0.9 * variance[color] + 0.1 * pixels.var(ddof=1)
    torch.testing.assert_close(network.norm.running_mean, torch.tensor(mean, dtype=torch.float32))
    torch.testing.assert_close(
        network.norm.running_var, torch.tensor(variance, dtype=torch.float32)
    )


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    network, known = Brightness(), view((90, 10))
    shift_batchnorm(
        plain_trunk(network), known, steps=100, batch_size=64, generator=torch.Generator()
    )
    classes = [known.images[known.labels == c].mean() / 255 for c in (0, 1)]
    found = float(network.norm.running_mean.mean())
    assert found == pytest.approx(sum(classes) / 2, abs=0.02)  # the data's own mean is 0.24 lower


def test_mode_momentum_and_the_ambient_generator_are_left_alone() -> None:
    network = Brightness().train()
    before = torch.random.get_rng_state()
    shift_batchnorm(
        plain_trunk(network), view(), steps=2, batch_size=4, generator=torch.Generator()
    )
    assert torch.equal(torch.random.get_rng_state(), before), "dropout drew"
    assert not network.norm.training
    assert network.norm.momentum == 0.3


def test_no_images_change_nothing_and_a_single_class_is_fine() -> None:
    for counts, moves in (((0, 0), False), ((5, 0), True)):
        network = Brightness()
        shift_batchnorm(
            plain_trunk(network), view(counts), steps=2, batch_size=4, generator=torch.Generator()
        )
        assert bool(network.norm.running_mean.any()) is moves
        assert network.norm.running_mean.isfinite().all()


def test_a_trunk_without_batch_norm_is_refused_in_one_line() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match=r"needs a trunk with batch normalization") as error:
        shift_batchnorm(
            plain_trunk(network), view(), steps=1, batch_size=4, generator=torch.Generator()
        )
    assert "\n" not in str(error.value)
