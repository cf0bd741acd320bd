"""Pretrained weights: which are accepted, and what is said of the others."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from trainables.artifacts import save_artifact
from trainables.errors import ConfigError
from trainables.methods.pretrainers.none import NoPretraining
from trainables.methods.pretrainers.pretrained import Pretrained
from trainables.models.backbone import Trunk, build_trunk, check_backbone, to_artifact
from trainables.weights import hub
from trainables.weights.pretrained import find_weights, require_weights


@pytest.fixture
def trunk() -> Trunk:
    return build_trunk("fastnet", 8, generator=torch.Generator().manual_seed(1))


def same(one: Trunk, other: Trunk) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def loaded(path: Path, backbone: str, size: int = 8, **method: str) -> Trunk:
    """Return the trunk that a recipe with this file starts from."""
    weights = find_weights(backbone, Pretrained(checkpoint=str(path), **method), size)
    assert weights is not None
    return build_trunk(weights.architecture, size, weights=weights)


def test_a_state_dict_of_the_trunk_is_loaded(trunk: Trunk, tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    save_file({**trunk.state_dict(), "head.weight": torch.ones(1)}, path)
    assert not same(trunk, build_trunk("fastnet", 8))
    assert same(trunk, loaded(path, "fastnet"))


def test_our_own_stored_backbone_is_loaded(trunk: Trunk, tmp_path: Path) -> None:
    trunk.mean.fill_(0.25)
    save_artifact(to_artifact(trunk, "fastnet", 8), tmp_path / "backbone")
    assert same(trunk, loaded(tmp_path / "backbone" / "tensors.safetensors", "fastnet"))


def test_our_own_backbone_of_another_name_is_refused(trunk: Trunk, tmp_path: Path) -> None:
    save_artifact(to_artifact(trunk, "fastnet", 8), tmp_path / "backbone")
    method = Pretrained(checkpoint=str(tmp_path / "backbone" / "tensors.safetensors"))
    check_backbone("fastnet", method, 8)
    with pytest.raises(ConfigError, match=r"weights of 'fastnet'; pretrain.backbone is 'resnet32'"):
        check_backbone("resnet32", method, 8)


@pytest.mark.parametrize("size", [32, 96])  # up to 64 pixels the stem is small
@pytest.mark.parametrize("stored", ["timm", "ours"])
def test_weights_of_timm_fit_a_small_stem_and_a_large_one(
    tmp_path: Path, size: int, stored: str
) -> None:
    path = tmp_path / "resnet.safetensors"
    network = timm.create_model("resnet18", num_classes=0)
    if stored == "ours":
        trunk = build_trunk("resnet18", size, generator=torch.Generator().manual_seed(3))
        save_file(trunk.state_dict(), path)
        assert same(trunk, loaded(path, "resnet18", size))
        return
    save_file(network.state_dict(), path)
    found = loaded(path, "resnet18", size).network
    assert torch.equal(found.layer4[0].conv1.weight, network.layer4[0].conv1.weight)
    middle = network.conv1.weight[:, :, 2:5, 2:5] * (7 / 3) if size == 32 else network.conv1.weight
    assert torch.equal(found.conv1.weight, middle)


def with_changes(trunk: Trunk, changes: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    changed = {**trunk.state_dict(), **changes}
    return {name: tensor for name, tensor in changed.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, r"mean must be 3 numbers in 0\.\.1, .*received \[\]"),
        ({"mean": torch.full((1,), 0.5)}, r"mean must be 3 numbers .*received \[0.5\]"),
        (
            {"mean": torch.full((1, 3, 1, 1), 123.7)},
            r"mean must be 3 numbers in 0\.\.1, .*received \[123.7, 123.7, 123.7\]",
        ),
        ({"std": torch.zeros(1, 3, 1, 1)}, "std must be 3 numbers in 0.001..1"),
        ({"std": torch.full((1, 3, 1, 1), torch.nan)}, "std must be 3 numbers in 0.001..1"),
        ({"network.stem.bias": None}, "lacks 1 of the network's .*, first 'stem.bias'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    trunk: Trunk, tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    path = tmp_path / "trunk.safetensors"
    save_file(with_changes(trunk, changes), path)
    with pytest.raises(ConfigError, match=message) as caught:
        check_backbone("fastnet", Pretrained(checkpoint=str(path)), 8)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_name_the_first_shape(trunk: Trunk, tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    name = next(k for k in trunk.state_dict() if k.startswith("network."))
    save_file(with_changes(trunk, {name: torch.zeros(2, 2)}), path)
    short = name.removeprefix("network.")
    with pytest.raises(ConfigError, match=rf"{short} has the shape \[2, 2\] in place of \["):
        loaded(path, "fastnet")


def test_a_file_without_colors_says_what_is_assumed(
    trunk: Trunk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(with_changes(trunk, {"mean": None, "std": None}), path)
    assert same(trunk, loaded(path, "fastnet"))  # drawn with the colors of an untrained trunk
    assert "tells no mean and std of its colors; assumed: those of an untrained" in caplog.text


def test_a_part_of_a_stage_store_names_the_exported_model(trunk: Trunk, tmp_path: Path) -> None:
    save_artifact(to_artifact(trunk, "fastnet", 8), tmp_path / "backbone")
    path = tmp_path / "backbone" / "tensors.safetensors"
    large = {name for name, tensor in load_file(path).items() if tensor.numel() > 1000}
    save_file({k: v for k, v in load_file(path).items() if k not in large}, path)
    with pytest.raises(ConfigError, match=r"a stage store shares its large tensors; give the back"):
        loaded(path, "fastnet")


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x00" * 100])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trunk.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no safetensors file") as caught:
        check_backbone("fastnet", Pretrained(checkpoint=str(path)), 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.safetensors", "folder.safetensors"])
def test_a_checkpoint_that_is_no_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ConfigError, match="no such file"):
        check_backbone("fastnet", Pretrained(checkpoint=str(tmp_path / name)), 8)


def test_a_recipe_without_pretrained_weights_asks_for_nothing() -> None:
    check_backbone("resnet18", NoPretraining(), 32)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("source", ["hub", "url"])
def test_weights_of_timm_without_network_are_refused_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent_server: str, source: str
) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    config = timm.get_pretrained_cfg("resnet10t")
    config.url = f"{silent_server}/resnet10t.pth"
    if source == "url":
        config.hf_hub_id = None
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
    url = f"{silent_server}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        require_weights("resnet10t")
    assert time.monotonic() - start < 20
    text = str(caught.value)
    assert "'resnet10t': its pretrained weights are not on this machine, and 127.0.0.1" in text
    assert f"copy {tmp_path}" in text
    assert text.endswith(
        "or set pretrain.backbone=local-dir:PATH, or an architecture's name with "
        "pretrain.method.pretrained.checkpoint=FILE"
    )
    assert "\n" not in text


def test_weights_in_the_cache_need_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path))
    require_weights("resnet10t")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("fastnet", "set pretrain.method to pretrain this one on the data"),
        ("resnet32+2xblock", "choose a network of timm"),
        ("resnet10t.nope", r"Invalid pretrained tag \(nope\).*; with weights: resnet10t\."),
        ("resnet10t_nope", "'resnet10t_nope' has no pretrained weights; choose"),
    ],
)
def test_a_network_without_pretrained_weights_is_one_line(backbone: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_weights(backbone)


@pytest.mark.parametrize(
    ("backbone", "size", "reason"),
    [
        ("resnet10t.nope", 32, "Invalid pretrained tag"),
        ("convnext_atto", 8, "Kernel size can't be greater than actual input size"),
        ("xcit_nano_12_p16_224", 30, "`patch_size` should divide image dimensions evenly"),
    ],
)
def test_a_network_that_cannot_take_the_images_is_one_line(
    backbone: str, size: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"cannot be built for images of {size}x{size}.*{reason}"):
        build_trunk(backbone, size)
