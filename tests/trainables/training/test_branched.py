"""Trunks with several branches, and the stage that trains them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainables.artifacts import LabelledView
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Classify
from trainables.features.predict import head_module
from trainables.models.backbone import branch_trunk, build_trunk, from_artifact, to_artifact
from trainables.settings import build
from trainables.stages import classify, pretrain

OWN = [("fastnet", 8), ("resnet32", 8), ("resnet18_small", 8)]


def images(size: int = 8) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "size"), OWN)
@pytest.mark.parametrize("ending", ["2xblock", "3xstage"])
def test_features_of_the_branches_stand_side_by_side(name: str, size: int, ending: str) -> None:
    plain = build_trunk(name, size)
    trunk = build_trunk(f"{name}+{ending}", size).eval()
    assert trunk.num_branches == int(ending[0])
    assert trunk.num_features == trunk.num_branches * plain.num_features
    with torch.no_grad():
        features = trunk(images(size))
        parts = [trunk.forward_branch(images(size), n) for n in range(trunk.num_branches)]
    torch.testing.assert_close(torch.cat(parts, dim=1), features)
    assert not torch.allclose(parts[0], parts[1])
    assert list(trunk.forward_maps(images(size)))[-1] == "branches"


@pytest.mark.parametrize(("name", "size"), OWN)
def test_the_first_branch_is_the_trunk_that_was_there(name: str, size: int) -> None:
    plain = build_trunk(name, size).eval()
    with torch.no_grad():
        wanted = plain(images(size))
        draws = torch.Generator().manual_seed(5)
        trunk = branch_trunk(plain, f"{name}+2xblock", generator=draws).eval()
        torch.testing.assert_close(trunk.forward_branch(images(size), 0), wanted)


def test_an_artifact_brings_the_branches_back() -> None:
    trunk = build_trunk("resnet32+2xblock", 8, generator=torch.Generator().manual_seed(3)).eval()
    again = from_artifact(to_artifact(trunk, "resnet32+2xblock", 8)).eval()
    with torch.no_grad():
        assert torch.equal(again(images()), trunk(images()))


def test_two_blocks_are_as_many_parameters_as_in_the_released_network() -> None:
    trunk = build_trunk("resnet32+2xblock", 32)
    assert sum(p.numel() for p in trunk.parameters()) == 537_488


def test_a_branch_does_not_see_the_images_of_the_other() -> None:
    trunk = build_trunk("fastnet+2xblock", 8).train()
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    trunk.forward_branch(images(), 1).sum().backward()
    after = trunk.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert any("branches.1" in k for k in changed)
    assert not any("branches.0" in k for k in changed)
    without = {k for k, p in trunk.named_parameters() if p.grad is None}
    assert without == {k for k, _ in trunk.named_parameters() if "branches.0" in k}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fastnet+two", r"branches are written as fastnet\+2xblock"),
        ("fastnet+1xblock", r"branches are written as fastnet\+2xblock"),
    ],
)
def test_a_bad_name_is_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_trunk(name, 8)
    assert "\n" not in str(error.value)


def test_a_network_of_timm_is_refused_in_one_line() -> None:
    trunk = build_trunk("resnet10t", 16)
    with pytest.raises(ConfigError, match=r"can't have branches; allowed: fastnet"):
        branch_trunk(trunk, "resnet10t+2xblock", generator=torch.Generator())


# --- the stage ----------------------------------------------------------------------------------


def view(seed: int, per_class: tuple[int, ...] = (24, 12, 8)) -> LabelledView:
    """Classes that differ in one color channel."""
    labels = np.repeat(np.arange(len(per_class)), per_class)
    pixels = np.random.default_rng(seed).integers(0, 60, (len(labels), 8, 8, 3), dtype=np.uint8)
    pixels[np.arange(len(labels)), :, :, labels] += 120
    return LabelledView(pixels, np.arange(len(labels)), labels, len(per_class), f"view{seed}")


def trained(changes: dict[str, Any], backbone: str = "fastnet") -> classify.Classified:
    settings = {
        "training": {"epochs": 12, "batch_size": 12, "lr": 0.05, "precision": "float32"},
        "augmentation": "none",
        **changes,
    }
    start = build(pretrain.Pretrain, {"backbone": backbone})
    trunk = pretrain.run(start, known_train=view(0), context=Context()).backbone
    reports: list[dict[str, float]] = []
    context = Context(report=lambda metrics, epoch: reports.append(dict(metrics)))
    given = build(Classify, settings)
    held = view(1, (9, 9, 9))
    result = classify.run(
        given, backbone=trunk, known_train=view(0), validation_known=held, context=context
    )
    assert reports[-1]["classify/validation_accuracy"] > 0.9
    return result


HYBRID_SC = {"joint": {"contrast": "supcon", "weight": 1.0, "schedule": "cumulative"}}


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({"branches": "bbn"}, "fastnet+2xblock"),
        ({"branches": {"bbn": {"second_sampler": "class_aware"}}}, "fastnet+2xblock"),
        ({"branches": "hybrid", "loss": HYBRID_SC}, "fastnet"),
        ({"branches": "bbn", "head": {"experts": {"count": 2}}}, "fastnet+2xblock"),
        ({"loss": "sade", "head": "experts"}, "fastnet+3xstage"),
        (
            {"loss": "ride", "head": {"experts": {"base": "cosine", "own": "nothing"}}},
            "fastnet",
        ),
        ({"loss": "paco"}, "fastnet"),
        ({"loss": {"joint": {"contrast": "bcl", "base": "balanced_softmax"}}}, "fastnet"),
        ({"loss": {"joint": {"contrast": "proco", "base": "logit_adjustment"}}}, "fastnet"),
    ],
    ids=[
        "bbn",
        "bbn with an index stream",
        "hybrid",
        "bbn of two classifiers",
        "sade",
        "ride",
        "paco",
        "joint",
        "proco",
    ],
)
def test_the_stage_learns_and_its_artifacts_predict(
    changes: dict[str, Any], architecture: str
) -> None:
    result = trained(changes)
    assert result.backbone.architecture == architecture
    trunk = from_artifact(result.backbone).eval()
    assert result.classifier.num_features == result.backbone.num_features == trunk.num_features
    assert result.classifier.feature_mean.shape == (trunk.num_features,)
    names = {name.rpartition(".")[2] for name in result.classifier.state}
    assert names <= {"weight", "bias"}  # no projector, no queue
    assert head_module(result.classifier)(torch.zeros(1, trunk.num_features)).shape == (1, 3)


def test_a_trunk_that_already_has_its_branches_keeps_them() -> None:
    result = trained({"branches": "bbn"}, backbone="fastnet+2xblock")
    assert result.backbone.architecture == "fastnet+2xblock"


def test_a_trunk_with_branches_learns_from_one_batch_too() -> None:
    assert trained({}, backbone="fastnet+2xblock").backbone.num_features == 256
