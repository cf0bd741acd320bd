"""The recipe of a small network from scratch."""

from pathlib import Path

import pytest

from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.training.scratch import epochs_for, recipe_from_scratch, size_for


def test_the_recipe_trains_all_classes_against_the_long_tail() -> None:
    options = FitOptions(photos=Path("pets"), backbone="none", false_alarm=0.1, expect="balanced")
    recipe = recipe_from_scratch(options, "folder:pets", size=64, epochs=7)
    assert recipe.data.world == "service"
    assert recipe.data.image_size == 64
    assert recipe.pretrain.method.name == "none"
    assert recipe.trunk_tuner().moves
    assert recipe.classify.loss.name == "logit_adjustment"
    assert recipe.classify.training.epochs == 7
    assert recipe.score.prior == "balanced"
    assert recipe.score.threshold.dump()["false_alarm"]["level"] == 0.1


@pytest.mark.parametrize(("images", "epochs"), [(10, 100), (1_600, 50), (1_000_000, 12)])
def test_more_epochs_for_fewer_images(images: int, epochs: int) -> None:
    assert epochs_for(images) == epochs


def test_half_of_the_photos_decide_the_size() -> None:
    assert size_for([(48, 100)] * 2 + [(300, 200)]) == 32
    assert size_for([(49, 100)] * 2 + [(30, 30)]) == 64
