"""Networks without their last stages: values, weights that stay, artifacts, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.artifacts import load_artifact, save_artifact
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.methods.pretrainers.pretrained import Pretrained
from trainables.models.backbone import Trunk, build_trunk, from_artifact, to_artifact
from trainables.pipeline import check_trunk
from trainables.weights.depth import with_layer
from trainables.weights.pretrained import find_weights

SIZE = 64


def trunk(name: str, layer: int = 0) -> Trunk:
    draws = torch.Generator().manual_seed(1)
    return build_trunk(with_layer(name, layer), SIZE, generator=draws).eval()


def images() -> torch.Tensor:
    draws = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=draws)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("layer", [1, 2])
def test_features_are_the_average_of_an_earlier_map(name: str, layer: int) -> None:
    whole, short = trunk(name), trunk(name, layer)
    with torch.inference_mode():
        maps = whole.network.forward_intermediates(
            whole.normalize(images()), intermediates_only=True
        )
        assert torch.equal(short(images()), maps[-1 - layer].mean((2, 3)))
    assert short.num_features == maps[-1 - layer].shape[1]


def test_features_of_a_transformer_are_the_normalized_token_of_an_earlier_block() -> None:
    whole, short = trunk("test_vit"), trunk("test_vit", 2)
    found: list[torch.Tensor] = []
    network = whole.network
    network.blocks[-3].register_forward_hook(lambda module, given, tokens: found.append(tokens))
    with torch.inference_mode():
        whole(images())
        assert torch.equal(short(images()), network.norm(found[0])[:, 0])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "test_vit"])
def test_the_weights_that_stay_are_those_of_the_whole_network(name: str) -> None:
    whole, short = trunk(name).state_dict(), trunk(name, 1).state_dict()
    assert set(short) < set(whole)
    assert all(torch.equal(value, whole[key]) for key, value in short.items())


def test_a_shortened_trunk_is_stored_and_read_back(tmp_path: Path) -> None:
    network = trunk("efficientnet_lite0", 1)
    stored = to_artifact(network, with_layer("efficientnet_lite0", 1), SIZE)
    save_artifact(stored, tmp_path / "backbone")
    again = from_artifact(load_artifact(type(stored), tmp_path / "backbone")).eval()
    method = Pretrained(checkpoint=str(tmp_path / "backbone" / "tensors.safetensors"))
    weights = find_weights("efficientnet_lite0", method, SIZE)
    assert weights is not None
    loaded = build_trunk(weights.architecture, SIZE, weights=weights).eval()
    with torch.inference_mode():
        assert torch.equal(again(images()), network(images()))
        assert torch.equal(loaded(images()), network(images()))
    with pytest.raises(ConfigError, match=r"without its last 1 stages; must be 1; received 2"):
        build_trunk(with_layer("efficientnet_lite0", 2), SIZE, weights=weights)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["pretrain.layer=1"],
            "pretrain.layer: must be 0, 'fastnet' is no network of timm; received 1",
        ),
        (["pretrain.layer=-1"], "pretrain.layer: .*greater than or equal to 0"),
        (
            ["pretrain.backbone=resnet18", "pretrain.layer=5"],
            "pretrain.layer: 'resnet18' has 5 stages; must be below that; received 5",
        ),
        (
            ["pretrain.backbone=test_convnext", "pretrain.layer=1"],
            "pretrain.layer: must be 0, 'test_convnext' can't be shortened; received 1",
        ),
    ],
)
def test_a_layer_that_there_is_not_is_one_line(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_trunk(load_experiment(None, sets))
    assert "\n" not in str(caught.value)


def test_a_recipe_of_before_has_no_layer_in_its_digest() -> None:
    tree = load_experiment(None, ["pretrain.layer=0"]).model_dump(mode="json")
    assert "layer" not in tree["pretrain"]
    cut = load_experiment(None, ["pretrain.backbone=resnet18", "pretrain.layer=1"])
    assert cut.model_dump(mode="json")["pretrain"]["layer"] == 1
