"""Every recipe of a closed world trains: one epoch on a handful of stand-in pictures."""

import math
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.pictures import draw_folder
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.models.backbone import build_trunk
from trainables.pipeline import run
from trainables.settings import assign

RECIPES = {path.stem: load_experiment(path) for path in (ROOT / "experiments").glob("*.yaml")}
CLOSED = sorted(name for name, recipe in RECIPES.items() if recipe.data.novel_classes == 0)
FAMILIES = (
    *("bag_of_tricks", "balanced_softmax", "bbn", "bcl", "ce", "hybrid_psc", "hybrid_sc"),
    *("ldam_drw", "logit_adjustment", "mislas", "mixup_balanced_softmax", "proco", "ride"),
    *("sade", "tde"),
)
TRAINED = 12 + 9 + 7 + 6  # exponential tail of factor 2 in four classes of twelve
BATCH = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("pictures"), classes=4, train=12, size=(32, 32))


def shortened(recipe: Experiment, pictures: Path) -> Experiment:
    """Return a recipe on stand-in pictures: one epoch of small batches, a tail they allow."""
    changes: dict[str, object] = {
        "data.source": f"folder:{pictures}",
        "data.root": str(pictures.parent),
        "classify.training.epochs": 1,
        "classify.training.batch_size": BATCH,
        "classify.then": [
            {**follow_up.model_dump(mode="json"), "epochs": 1} for follow_up in recipe.classify.then
        ],
    }
    if recipe.data.profile.name == "exponential":
        changes["data.profile"] = {"exponential": {"imbalance_factor": 2.0}}
    if recipe.data.unlabelled.ratio:
        changes |= {"data.max_per_class": 4, "data.unlabelled.ratio": 0.5}
    if recipe.extract.batchnorm == "shifted":
        changes |= {"extract.shift_steps": 2, "extract.shift_batch_size": BATCH}
    if "epochs" in type(recipe.rebalance.method).model_fields:
        changes["rebalance.method.epochs"] = 1
    return assign(recipe, changes)


@pytest.mark.parametrize("name", CLOSED)
def test_one_epoch_of_a_recipe_runs_from_images_to_metrics(name: str, pictures: Path) -> None:
    recipe = shortened(RECIPES[name], pictures)
    told: list[dict[str, float]] = []
    artifacts = run(recipe, Context(report=lambda metrics, epoch: told.append(dict(metrics))))
    if not recipe.data.unlabelled.ratio:
        images = 48 if recipe.data.profile.name == "natural" else TRAINED
        steps = artifacts["classifier"].train_cost["classify_steps"]
        assert steps == math.ceil(images / BATCH) * (1 + len(recipe.classify.then))
    losses = [row["classify/loss"] for row in told if "classify/loss" in row]
    assert losses
    assert all(map(math.isfinite, losses))
    metrics = artifacts["evaluation"].metrics
    assert 0 <= metrics["evaluate/accuracy"] <= 1
    assert metrics["evaluate/accuracy"] == pytest.approx(metrics["evaluate/accuracy/balanced"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_recipe_for_both_data_sets_on_the_published_images(family: str) -> None:
    for source in ("cifar10", "cifar100"):
        data = RECIPES[f"{source}_lt_{family}"].data
        assert data.source == source
        assert data.seed == 0
        assert data.profile.name == "exponential"
        assert data.profile.model_dump()["imbalance_factor"] == 100.0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar10_lt_ce", 463_504),  # with the head's 650: the 464,154 of LDAM-DRW
        ("cifar100_lt_ce", 463_504),  # with 6,500: 470,004
        ("cifar10_lt_tde", 537_488),
        ("cifar10_lt_bbn", 537_488),
    ],
)
def test_a_trunk_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    recipe = RECIPES[name]
    branches = recipe.classify.branches.trunk_ending
    architecture = recipe.pretrain.backbone + (f"+{branches}" if branches else "")
    assert sum(p.numel() for p in build_trunk(architecture, 32).parameters()) == parameters
