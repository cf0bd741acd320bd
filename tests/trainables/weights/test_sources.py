"""Weights of a folder or of the hub: same features as timm's, their preprocessing, their origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from orchestrator.search.recipe_paths import content_of_paths, recipe_digest
from tests.helpers.weights import COMMIT, change_config, write_hub_cache, write_weights
from trainables.data.data_settings import Fitting
from trainables.data.decode import decode_file
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.keys import file_digest, with_contents
from trainables.models.backbone import build_trunk, check_backbone, from_artifact, to_artifact
from trainables.settings import build
from trainables.weights.pretrained import find_weights
from trainables.weights.sources import describe


def read(backbone: str, *sets: str) -> Experiment:
    return load_experiment(
        None, [f"pretrain.backbone='{backbone}'", "pretrain.method=pretrained", *sets]
    )


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (83, 61)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def timms_features(folder: Path, image: Path) -> torch.Tensor:
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=network))
    with torch.inference_mode():
        found: torch.Tensor = network(transform(Image.open(image)).unsqueeze(0))
    return found


def our_features(recipe: Experiment, image: Path) -> torch.Tensor:
    """Return features of a file by the recipe's trunk, after it was stored and read again."""
    size = recipe.data.image_size
    assert size is not None
    weights = find_weights(recipe.pretrain.backbone, recipe.pretrain.method, size)
    assert weights is not None
    stored = to_artifact(
        build_trunk(weights.architecture, size, weights=weights), weights.architecture, size
    )
    pixels = torch.from_numpy(decode_file(str(image), size, recipe.data.fitting))
    with torch.inference_mode():
        found: torch.Tensor = from_artifact(stored).eval()(pixels.permute(2, 0, 1).unsqueeze(0))
    return found


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_resnet", "test_convnext"])
def test_features_of_a_folder_are_those_of_timm(name: str, tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights", name, input_size=[3, 96, 96])
    image = picture(tmp_path / "a.png", size=(200, 137))
    expected = timms_features(folder, image)
    found = our_features(read(f"local-dir:{folder}", "data.image_size=96"), image)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"interpolation": "bilinear", "crop_pct": 1.0},
        {"interpolation": "lanczos", "crop_pct": 0.95, "mean": [0.5] * 3, "std": [0.5] * 3},
        {"interpolation": "nearest", "input_size": [3, 80, 80]},
    ],
)
def test_every_part_of_the_preprocessing_counts(config: dict[str, Any], tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights", **{"input_size": [3, 96, 96], **config})
    image = picture(tmp_path / "a.png", size=(131, 170))
    expected = timms_features(folder, image)
    recipe = read(f"local-dir:{folder}")
    torch.testing.assert_close(our_features(recipe, image), expected, atol=1e-5, rtol=1e-5)


def test_a_recipe_names_the_preprocessing_of_its_weights(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights")
    recipe = read(f"local-dir:{folder}")
    assert recipe.data.image_size == 48
    assert recipe.data.fitting == Fitting("bicubic", 0.8)
    dumped = recipe.model_dump(mode="json")
    assert dumped["data"]["interpolation"] == "bicubic"
    assert build(Experiment, dumped) == recipe
    own = read(f"local-dir:{folder}", "data.image_size=32", "data.interpolation=bilinear")
    assert own.data.image_size == 32
    assert own.data.fitting == Fitting("bilinear", 0.8)


def test_a_name_gets_the_tag_and_preprocessing_of_its_usual_weights() -> None:
    recipe = read("resnet18")
    assert recipe.pretrain.backbone == "resnet18.a1_in1k"
    assert recipe.data.image_size == 224
    assert recipe.data.fitting == Fitting("bicubic", 0.95)
    assert read("resnet18.tv_in1k").data.fitting == Fitting("bilinear", 0.875)


def test_other_recipes_are_left_as_they_are() -> None:
    recipe = load_experiment(None, ["pretrain.backbone=resnet18"])
    assert recipe.pretrain.backbone == "resnet18"
    assert recipe.data.image_size is None
    assert recipe.data.interpolation is None


def test_weights_in_the_hubs_cache_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_weights(tmp_path / "weights")
    write_hub_cache(tmp_path / "hub", "me/photos", folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    recipe = read("hf-hub:me/photos")
    assert recipe.pretrain.backbone == f"hf-hub:me/photos@{COMMIT}"
    assert recipe.data.image_size == 48
    image = picture(tmp_path / "a.png")
    torch.testing.assert_close(
        our_features(recipe, image), our_features(read(f"local-dir:{folder}"), image)
    )
    with pytest.raises(ConfigError) as caught:
        read("hf-hub:me/others")
    text = str(caught.value)
    assert "'hf-hub:me/others': its pretrained weights are not on this machine" in text
    assert f"copy {tmp_path / 'hub'}" in text
    assert "local-dir:PATH" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("local-dir:none", "pretrain.backbone: no such folder: none"),
        ("local-dir:", "lacks what follows 'local-dir:'"),
        ("hf-hub:timm", "a repository is written hf-hub:OWNER/NAME; received 'hf-hub:timm'"),
        ("hfhub:me/photos", r"unknown source 'hfhub:'; allowed: .* did you mean 'hf-hub:'"),
        ("timm/resnet18", "write hf-hub:timm/resnet18 for the Hugging Face Hub, or local-dir:"),
        ("./weights", "write hf-hub:./weights"),
    ],
)
def test_a_source_that_is_none_is_one_line(
    backbone: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        read(backbone)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["pretrain.method=none"], "names weights, so it must be pretrained; received none"),
        (["pretrain.method=simclr"], "names weights, so it must be pretrained; received simclr"),
        (
            ["pretrain.method={pretrained: {checkpoint: a.pth}}"],
            "must name an architecture, whose weights are in checkpoint a.pth",
        ),
        (
            ["pretrain.method={pretrained: {checkpoint: a.npz}}"],
            r"must end in .safetensors, .pth, .pt, .bin; received 'a.npz'",
        ),
    ],
)
def test_weights_that_would_not_be_used_are_one_line(
    sets: list[str], message: str, tmp_path: Path
) -> None:
    folder = write_weights(tmp_path / "weights")
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(None, [f"pretrain.backbone=local-dir:{folder}", *sets])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "names no 'architecture', so it is not a config of timm"),
        ({"architecture": "test_vitt"}, "does not know the architecture 'test_vitt'.*'test_vit'"),
        ({"pretrained_cfg": {"input_size": [1, 48, 48]}}, "takes images of 1 channels and 48x48"),
        ({"pretrained_cfg": {"input_size": [3, 48, 64]}}, "3 channels and 48x64 pixels"),
        ({"pretrained_cfg": {"interpolation": "cubic"}}, "interpolation must be one of bilinear"),
        ({"pretrained_cfg": {"crop_pct": 1.5}}, "crop_pct in 0..1; received bicubic and 1.5"),
        ({"pretrained_cfg": {"mean": [0.5]}}, r"mean and std must be 3 numbers.*received \[0.5\]"),
        ({"pretrained_cfg": {"std": "x"}}, "preprocessing cannot be read"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_weights(tmp_path / "weights")
    change_config(folder, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        read(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights")
    recipe = read(f"local-dir:{folder}")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="is no safetensors file"):
        check_backbone(recipe.pretrain.backbone, recipe.pretrain.method, 48)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="the folder holds no weights; allowed: "):
        check_backbone(recipe.pretrain.backbone, recipe.pretrain.method, 48)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        read(f"local-dir:{folder}")


def test_weights_of_another_network_in_a_folder_are_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    folder = write_weights(tmp_path / "weights")
    other = write_weights(tmp_path / "other", "test_resnet")
    (other / "model.safetensors").rename(folder / "model.safetensors")
    recipe = read(f"local-dir:{folder}")
    with pytest.raises(ConfigError, match=r"model\.safetensors: lacks \d+ of the network's"):
        check_backbone(recipe.pretrain.backbone, recipe.pretrain.method, 48)


def test_torchs_file_of_a_folder_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights")
    image = picture(tmp_path / "a.png")
    expected = our_features(read(f"local-dir:{folder}"), image)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(our_features(read(f"local-dir:{folder}"), image), expected)


def test_content_and_not_place_of_a_folder_counts(tmp_path: Path) -> None:
    first = write_weights(tmp_path / "first")
    second = write_weights(tmp_path / "second")
    other = write_weights(tmp_path / "other", "test_efficientnet", 2)
    recipes = [read(f"local-dir:{folder}") for folder in (first, second, other)]
    keys = [json.dumps(with_contents(recipe.pretrain)) for recipe in recipes]
    assert keys[0] == keys[1] != keys[2]
    digests = [recipe_digest(recipe) for recipe in recipes]
    assert digests[0] == digests[1] != digests[2]
    assert content_of_paths(recipes[0])["pretrain.backbone"] == file_digest(str(first))
    (second / "README.md").write_text("words")
    assert file_digest(str(first)) == file_digest(str(second))
    change_config(second, num_classes=7)
    assert file_digest(str(first)) != file_digest(str(second))
    assert file_digest(str(first / "model.safetensors")) != file_digest(
        str(second / "model.safetensors")
    )


def test_config_beside_a_file_tells_its_preprocessing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_weights(tmp_path / "weights")
    file = folder / "model.safetensors"
    sets = [
        "pretrain.backbone=test_efficientnet",
        f"pretrain.method={{pretrained: {{checkpoint: {file}}}}}",
    ]
    recipe = load_experiment(None, sets)
    assert recipe.data.image_size == 48
    assert "assumed" not in caplog.text
    image = picture(tmp_path / "a.png")
    expected = our_features(read(f"local-dir:{folder}"), image)
    assert torch.equal(our_features(recipe, image), expected)
    (folder / "config.json").unlink()
    recipe = load_experiment(None, sets)
    assert recipe.data.image_size == timm.get_pretrained_cfg("test_efficientnet").input_size[-1]
    assert "has no config.json beside it; assumed: 160 pixels, bicubic" in caplog.text


def test_what_a_source_says_of_its_training_is_repeated_and_not_believed(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights", tag="my_in1k")
    found = find_weights(f"local-dir:{folder}", read(f"local-dir:{folder}").pretrain.method, 48)
    assert found is not None
    assert found.origin.text == "not known; its config.json says: test_efficientnet.my_in1k"
    assert found.origin.labels == ("imagenet-1k",)
    change_config(folder, label_names=["lynx", "tabby"], pretrained_cfg={})
    found = find_weights(f"local-dir:{folder}", read(f"local-dir:{folder}").pretrain.method, 48)
    assert found is not None
    assert found.origin.text == "not known"
    assert found.origin.labels == ("lynx", "tabby")


def test_images_that_would_not_be_cut_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_weights(tmp_path / "weights", crop_mode="squash")
    read(f"local-dir:{folder}")
    assert "not cut to squares (crop_mode squash); here the center square is cut" in caplog.text


def test_branches_of_a_network_of_timm_are_one_line(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights")
    branches = ["classify.head=experts", "classify.loss=ride", "classify.trunk=full"]
    with pytest.raises(ConfigError, match="can't have; allowed backbones: fastnet, resnet32"):
        read(f"local-dir:{folder}", *branches)


def test_images_of_a_size_that_the_network_does_not_take_are_one_line(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "weights", "test_vit", input_size=[3, 48, 48])
    recipe = read(f"local-dir:{folder}", "data.image_size=50")
    with pytest.raises(ConfigError, match="50x50"):
        check_backbone(recipe.pretrain.backbone, recipe.pretrain.method, recipe.data.image_size)


def test_arguments_of_a_config_build_the_network_again(tmp_path: Path) -> None:
    network = timm.create_model(
        "test_vit", num_classes=3, img_size=48, class_token=False, global_pool="avg"
    )
    timm.models.save_for_hf(network, str(tmp_path / "weights"), safe_serialization=True)
    described = describe(f"local-dir:{tmp_path / 'weights'}")
    assert described.architecture.startswith('test_vit {"')
    image = picture(tmp_path / "a.png")
    recipe = read(f"local-dir:{tmp_path / 'weights'}")
    expected = timms_features(tmp_path / "weights", image)
    torch.testing.assert_close(our_features(recipe, image), expected, atol=1e-5, rtol=1e-5)
