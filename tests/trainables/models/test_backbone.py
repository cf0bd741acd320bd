"""Trunks: shapes, sizes, determinism, artifacts, precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainables.artifacts import ImageView, load_artifact, save_artifact
from trainables.errors import ConfigError
from trainables.methods.pretrainers.pretrained import Pretrained
from trainables.models.backbone import (
    build_trunk,
    check_backbone,
    extract_features,
    from_artifact,
    to_artifact,
)
from trainables.models.precision import (
    ComputeFormat,
    Race,
    compute_format,
    format_names,
    probe_precision,
    run_race,
)

OWN = {"fastnet": 128, "resnet32": 64, "resnet18_small": 512}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=seeded())


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("size", [8, 13, 32])
def test_own_networks_take_any_size(name: str, size: int) -> None:
    trunk = build_trunk(name, size)
    features = trunk(pixels(2, size))
    assert features.shape == (2, OWN[name])
    assert trunk.num_features == OWN[name]
    features.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    head = 64 * 10 + 10
    assert parameters(build_trunk("resnet32", 32)) + head == 464_154
    assert 0.2e6 < parameters(build_trunk("fastnet", 32)) < 0.3e6
    assert parameters(build_trunk("resnet18_small", 32)) == 11_168_832  # torchvision's, 3x3 stem


def test_resnet18_small_is_torchvisions_network_with_another_stem() -> None:
    from torchvision.models import resnet18

    official = resnet18(num_classes=10)
    official.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    official.maxpool = nn.Identity()
    official.fc = nn.Identity()
    trunk = build_trunk("resnet18_small", 32)
    ours = trunk.network.state_dict()
    assert [t.shape for t in ours.values()] == [t.shape for t in official.state_dict().values()]
    official.load_state_dict(dict(zip(official.state_dict(), ours.values(), strict=True)))
    images = pixels()
    with torch.no_grad():
        wanted = official.eval()(trunk.normalize(images))
        torch.testing.assert_close(trunk.eval()(images), wanted, rtol=1e-4, atol=1e-4)


def test_resnet32_shortcuts_subsample_and_pad_with_zeros() -> None:
    block = build_trunk("resnet32", 32).network.stages[1][0]  # type: ignore[index, union-attr]
    maps = torch.rand(2, 16, 8, 8)
    with torch.no_grad():
        block.norm2.weight.zero_()  # type: ignore[union-attr, operator]
        out = block.eval()(maps)  # type: ignore[operator, union-attr]
    assert torch.equal(out[:, 8:24], maps[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize("name", [*OWN, "resnet10t"])
def test_weights_come_from_the_generator_alone(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (build_trunk(name, 32, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    equal = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(equal)
    changed = [
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    ]
    assert any(changed)
    generator = seeded(1)
    build_trunk(name, 32, generator=generator)
    next_ = build_trunk(name, 32, generator=generator)
    assert not torch.equal(next(first.parameters()), next(next_.parameters()))


def test_bytes_and_fractions_are_normalised_alike() -> None:
    trunk = build_trunk("fastnet", 32).eval()
    images = pixels()
    wanted = (images / 255 - trunk.mean) / trunk.std
    torch.testing.assert_close(trunk.normalize(images), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trunk(images), trunk(images / 255), rtol=1e-4, atol=1e-4)


def test_bfloat16_weights_compute_in_bfloat16() -> None:
    trunk = build_trunk("fastnet", 8).to(torch.bfloat16)
    assert trunk(pixels(2, 8)).dtype == torch.bfloat16
    # Pixels are normalised in float32: what is left is the rounding of mean, std and result.
    exact = build_trunk("fastnet", 8).normalize(pixels(2, 8))
    found = trunk.normalize(pixels(2, 8)).float()
    torch.testing.assert_close(found, exact, rtol=2**-7, atol=2**-7)


def test_layout_follows_the_weights() -> None:
    trunk = build_trunk("fastnet", 32).eval()
    plain = trunk(pixels())
    trunk.to(memory_format=torch.channels_last)
    assert trunk.normalize(pixels()).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(trunk(pixels()), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "widths"),
    [
        ("fastnet", 32, [32, 64, 128]),
        ("resnet32", 16, [16, 32, 64]),
        ("resnet18_small", 8, [64, 128, 256, 512]),
        ("resnet10t", 32, [64, 64, 128, 256, 512]),
    ],
)
def test_maps_are_named_and_lead_to_the_features(name: str, size: int, widths: list[int]) -> None:
    trunk = build_trunk(name, size).eval()
    with torch.no_grad():
        maps = trunk.forward_maps(pixels(2, size))
        features = trunk(pixels(2, size))
    assert [map_.shape[1] for map_ in maps.values()] == widths
    last = list(maps.values())[-1]
    pooled = last.amax((2, 3)) if name == "fastnet" else last.mean((2, 3))
    torch.testing.assert_close(pooled, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet10t", 512)])
def test_timm_resnets_keep_small_images(name: str, width: int) -> None:
    small, large = build_trunk(name, 32), build_trunk(name, 96)
    assert small.num_features == width
    stem_small = next(iter(small.eval().forward_maps(pixels(2, 32)).values()))
    stem_large = next(iter(large.eval().forward_maps(pixels(2, 96)).values()))
    assert stem_small.shape[-1] == (32 if name == "resnet18" else 16)
    assert stem_large.shape[-1] == 48


def test_timm_vision_transformer_takes_the_image_size() -> None:
    trunk = build_trunk("vit_tiny_patch16_224", 32)
    assert trunk(pixels(2)).shape == (2, trunk.num_features)


def test_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet19'.*did you mean 'resnet1"):
        build_trunk("resnet19", 32)
    with pytest.raises(ConfigError, match=r"did you mean 'fastnet'"):
        build_trunk("fastnets", 32)


def test_pretrained_weights_of_own_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="'fastnet' has no pretrained weights"):
        check_backbone("fastnet", Pretrained(), 32)


@pytest.mark.parametrize("name", ["fastnet", "resnet10t"])
def test_artifact_round_trip(name: str, tmp_path: Path) -> None:
    trunk = build_trunk(name, 32, generator=seeded(5))
    trunk(pixels(16))  # moves BatchNorm's statistics
    trunk.to(memory_format=torch.channels_last)
    before = to_artifact(trunk, name, 32)._replace(pretrained_on="cifar10")
    artifact = to_artifact(trunk, name, 32, before=before)
    save_artifact(artifact, tmp_path)
    stored = load_artifact(type(artifact), tmp_path)
    assert (stored.architecture, stored.image_size, stored.pretrained_on) == (name, 32, "cifar10")
    rebuilt = from_artifact(stored).eval()
    with torch.no_grad():
        wanted = trunk.eval()(pixels())
        torch.testing.assert_close(rebuilt(pixels()), wanted, rtol=1e-4, atol=1e-4)
        next(trunk.parameters()).zero_()
    assert next(rebuilt.parameters()).any(), "artifact shares memory with the trunk"


def test_features_of_a_view_are_in_order_and_without_batch_effects() -> None:
    images = pixels(11, 8).permute(0, 2, 3, 1).numpy()
    order = np.array([4, 2, 9, 10, 0], dtype=np.int64)
    trunk = build_trunk("fastnet", 8).train()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    found = extract_features(trunk, ImageView(images, order, "d"), batch_size=2)
    assert trunk.training
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())
    trunk.eval()
    wanted = trunk(pixels(11, 8)[torch.from_numpy(order)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert found.dtype == torch.float32
    assert not found.is_inference()
    (found * torch.ones(1, requires_grad=True)).sum().backward()


def test_features_of_an_empty_view() -> None:
    empty = ImageView(np.empty((0, 8, 8, 3), np.uint8), np.empty(0, np.int64), "d")
    assert extract_features(build_trunk("fastnet", 8), empty).shape == (0, 128)


@pytest.mark.parametrize(
    ("precision", "layout", "wanted"),
    [
        ("auto", "auto", (torch.float32, torch.channels_last)),
        ("bfloat16", "auto", (torch.bfloat16, torch.channels_last)),
        ("auto", "contiguous", (torch.float32, torch.contiguous_format)),
    ],
)
def test_auto_without_a_race(
    precision: str, layout: str, wanted: tuple[torch.dtype, torch.memory_format]
) -> None:
    assert compute_format(precision, layout) == wanted


def test_given_precision_and_layout_are_taken_without_measuring() -> None:
    race = Race("nothing", 8, 8, "bfloat16", "channels_last")
    found = run_race(nn.Identity(), race)
    assert found == ComputeFormat(torch.bfloat16, torch.channels_last)
    assert format_names(found) == ("bfloat16", "channels_last")


def test_probe_leaves_the_trunk_and_the_global_generator_alone() -> None:
    trunk = build_trunk("fastnet", 8)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    state = torch.get_rng_state()
    probe_precision(trunk, 1, image_size=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in trunk.parameters())


class _SlowInChannelsLast(nn.Module):
    """Works many times longer when its weights are channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(images.float())
        slow = self.convolution.weight.is_contiguous(memory_format=torch.channels_last)
        for _ in range(40 if slow else 0):
            maps = torch.tanh(maps)
        return maps.mean((2, 3))


def test_probe_finds_the_faster_layout() -> None:
    found = run_race(_SlowInChannelsLast(), Race("slow", 32, 32, precision="float32"))
    assert found == ComputeFormat(torch.float32, torch.contiguous_format)


@pytest.mark.parametrize(("seconds", "wanted"), [(2.05, torch.float32), (0.5, torch.bfloat16)])
def test_the_probe_takes_the_type_that_was_faster(
    seconds: float, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr(
        "trainables.models.precision._time_step", lambda module, images, dtype: took[dtype]
    )
    trunk = build_trunk("efficientnet_b0", 32)
    assert probe_precision(trunk, 32, image_size=32).dtype == wanted
