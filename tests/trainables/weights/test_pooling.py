"""Poolings of timm's networks: values, weights that stay, artifacts, refusals, stored features."""

from __future__ import annotations

import pytest
import torch

from trainables.artifacts import load_artifact, save_artifact
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.methods.pretrainers.pretrained import Pretrained
from trainables.models.backbone import Trunk, build_trunk, from_artifact, to_artifact
from trainables.models.extraction.stored_features import trunk_name
from trainables.pipeline import check_trunk
from trainables.weights.pooling import with_pooling
from trainables.weights.pretrained import find_weights

MAPS = ["resnet18", "efficientnet_lite0", "test_convnext", "swin_tiny_patch4_window7_224"]
SIZE = 64


def trunk(name: str, pooling: str = "default") -> Trunk:
    draws = torch.Generator().manual_seed(1)
    return build_trunk(with_pooling(name, pooling), SIZE, generator=draws).eval()


def images() -> torch.Tensor:
    draws = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=draws)


def last_maps(network: Trunk) -> torch.Tensor:
    """Return the maps before the pooling ``[B, C, P]``, channels in timm's order."""
    maps = network.network.forward_features(network.normalize(images()))
    if (
        maps.shape[-1] == network.num_features
        and maps.dim() == 4
        and maps.shape[1] != maps.shape[-1]
    ):
        maps = maps.permute(0, 3, 1, 2)
    return maps.flatten(2)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_maps_are_pooled_by_the_formula(name: str) -> None:
    with torch.inference_mode():
        maps = last_maps(trunk(name))
        expected = {
            "average": maps.mean(2),
            "max": maps.amax(2),
            "gem": maps.clamp(min=1e-6).pow(3).mean(2).pow(1 / 3),
        }
        for pooling, features in expected.items():
            found = trunk(name, pooling)(images())
            torch.testing.assert_close(found, features, atol=1e-5, rtol=1e-5)


def test_tokens_are_pooled_by_the_formula() -> None:
    vision = trunk("test_vit")
    with torch.inference_mode():
        tokens = vision.network.forward_features(vision.normalize(images()))
        expected = {"token": tokens[:, 0], "average": tokens[:, 1:].mean(1)}
        expected["max"] = tokens[:, 1:].amax(1)
        for pooling, features in expected.items():
            found = trunk("test_vit", pooling)(images())
            torch.testing.assert_close(found, features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*MAPS, "test_vit"])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_a_network_has_the_same_weights_and_width_under_every_pooling(
    name: str, pooling: str
) -> None:
    plain, other = trunk(name), trunk(name, pooling)
    assert plain.num_features == other.num_features
    states = plain.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "test_vit"])
def test_stored_features_of_one_pooling_are_not_those_of_another(name: str) -> None:
    assert trunk_name(trunk(name)) == trunk_name(trunk(name))
    assert trunk_name(trunk(name, "max")) != trunk_name(trunk(name))


def test_an_artifact_has_its_pooling_and_can_be_a_checkpoint(tmp_path) -> None:
    network = trunk("resnet18", "gem")
    stored = to_artifact(network, with_pooling("resnet18", "gem"), SIZE)
    save_artifact(stored, tmp_path / "backbone")
    again = from_artifact(load_artifact(type(stored), tmp_path / "backbone")).eval()
    method = Pretrained(checkpoint=str(tmp_path / "backbone" / "tensors.safetensors"))
    weights = find_weights("resnet18", method, SIZE)
    assert weights is not None
    loaded = build_trunk(weights.architecture, SIZE, weights=weights).eval()
    with torch.inference_mode():
        assert torch.equal(again(images()), network(images()))
        assert torch.equal(loaded(images()), network(images()))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["pretrain.pooling=gem"], "pooling: must be default, 'fastnet' pools in its own way"),
        (["pretrain.pooling=mean"], "pretrain.pooling: .*'default', 'average'.*received 'mean'"),
        (
            ["pretrain.backbone=resnet18", "pretrain.pooling=token"],
            "'resnet18' has no pooling 'token'; allowed: default, average, max, gem",
        ),
        (
            ["pretrain.backbone=test_vit", "pretrain.pooling=gem"],
            "'test_vit' has no pooling 'gem'; allowed: default, average, max, token",
        ),
        (
            ["pretrain.backbone=resnet18", "classify.trunk.last_blocks.blocks=99"],
            "last_blocks.blocks: the trunk has 9 blocks",
        ),
        (["classify.trunk=lora"], "lora: FastNet has no linear layers"),
        (["classify.trunk.full.drop_path=0.1"], "drop_path: 'fastnet' has no stochastic depth"),
        (
            ["update.mode=full", "update.trunk.last_blocks.drop_path=0.1"],
            "drop_path: 'fastnet' has no stochastic depth",
        ),
    ],
)
def test_what_a_trunk_cannot_do_is_refused_before_anything_runs(
    sets: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_trunk(load_experiment(None, sets))
    assert "\n" not in str(caught.value)


def test_a_recipe_of_before_has_no_pooling_in_its_digest() -> None:
    assert "pooling" not in load_experiment(None).model_dump(mode="json")["pretrain"]
