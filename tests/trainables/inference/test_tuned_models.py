"""A served model answers as its run did, whatever of its trunk was trained."""

from __future__ import annotations

import json

import pytest
import torch

from tests.helpers.exported import exported, recipe, views_of
from trainables.artifacts import Backbone, load_artifact, save_artifact
from trainables.inference.evaluate_exported import measure
from trainables.inference.model import load_model
from trainables.models.backbone import build_trunk, from_artifact, to_artifact

VISION = ("pretrain.backbone=test_vit", "data.image_size=32", "classify.training.epochs=2")
LOW_RANK = (*VISION, "classify.trunk=lora", "update.mode=full", "update.trunk=lora")
BLOCKS = ("update.mode=full", "update.trunk=last_blocks", "classify.trunk=last_blocks")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trunk") / "backbone"
    save_artifact(to_artifact(build_trunk("fastnet", 8), "fastnet", 8), folder)
    return f"pretrain.method.pretrained.checkpoint={folder / 'tensors.safetensors'}"


@pytest.mark.parametrize("sets", [LOW_RANK, BLOCKS, ("frozen",)], ids=lambda sets: sets[-1])
def test_a_served_model_has_the_figures_of_its_run(sets: tuple[str, ...], checkpoint: str) -> None:
    if sets == LOW_RANK:
        pytest.importorskip("peft")
    sets = (checkpoint,) if sets == ("frozen",) else sets
    folder = exported(0, *sets)
    document = json.loads((folder / "evaluation" / "artifact.json").read_text("utf-8"))
    stored, model = document["fields"]["metrics"], load_model(folder)
    found = measure(
        model,
        views_of(0, *sets),
        recipe(0, *sets).evaluate,
        class_names=views_of(0, *sets).summary["known_class_names"],
        class_counts=model.card.class_counts,
    )
    assert "test/accuracy/balanced" in found
    names = {name: name.replace("test/", "evaluate/updated/") for name in found}
    assert found == pytest.approx({name: stored[names[name]] for name in found}, abs=1e-5)


def test_a_served_trunk_is_a_plain_one(checkpoint: str) -> None:
    pytest.importorskip("peft")
    stored = load_artifact(Backbone, exported(0, *LOW_RANK) / "backbone")
    assert stored.state.keys() == build_trunk("test_vit", 32).state_dict().keys()
    frozen = load_artifact(Backbone, exported(0, checkpoint) / "backbone")
    trunk = build_trunk("fastnet", 8).state_dict()
    assert all(torch.equal(frozen.state[name], value) for name, value in trunk.items())
    assert from_artifact(frozen).num_features == frozen.num_features
