"""The recipe of a fine-tuning: which blocks are trained, at which rates, against the long tail."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.fitting.backbone import FrozenBackbone, choose_backbone
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.training.deeper import recipe_deeper, trained_blocks
from tests.helpers.small_fit import write_weights
from trainables.models.backbone import build_trunk
from trainables.models.trunks.blocks import blocks_of


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_the_last_third_of_the_blocks_is_trained(name: str) -> None:
    tuned, number = trained_blocks(FrozenBackbone({"pretrain.backbone": name}, name))
    assert number == len(blocks_of(build_trunk(name, 64)))
    assert abs(tuned - number / 3) <= 0.5


def test_the_recipe_says_what_was_asked_for(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights")
    backbone = choose_backbone(str(weights), gpu=False)
    options = FitOptions(
        photos=Path("pets"),
        backbone=str(weights),
        false_alarm=0.1,
        expect="balanced",
        storage=str(tmp_path / "runs"),
    )
    recipe = recipe_deeper(options, backbone, "folder:pets", epochs=7)
    assert recipe.data.world == "service"
    assert recipe.data.source == "folder:pets"
    assert recipe.data.root == str(tmp_path / "runs" / "data")
    assert recipe.pretrain.method.name == "pretrained"
    assert recipe.classify.training.epochs == 7
    assert recipe.classify.loss.name == "logit_adjustment"
    assert recipe.score.prior == "balanced"
    assert recipe.score.threshold.dump()["false_alarm"]["level"] == 0.1
    tuner = recipe.classify.trunk.dump()
    assert tuner["last_blocks"]["blocks"] == trained_blocks(backbone)[0]
