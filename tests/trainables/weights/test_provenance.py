"""What a trunk was trained on: whose labels it has seen, and what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import ROOT
from trainables.artifacts import (
    Backbone,
    Evaluation,
    ImageView,
    LabelledView,
    load_artifact,
    save_artifact,
)
from trainables.context import Context
from trainables.data.views import build_views
from trainables.experiment import load_experiment
from trainables.pipeline import plan, run, run_step
from trainables.weights.provenance import (
    caution,
    image_digests,
    is_known,
    origin_of_file,
    origin_of_timm,
    own_trunk,
    saw_labels_of,
)

SMALL = (
    "data.image_size=8",
    "classify.training.epochs=1",
    "update.training.epochs=1",
    "score.threshold={known_recall: {keep: 0.7}}",
)
DIGITS = ROOT / "experiments" / "digits.yaml"


def trained(*sets: str) -> Backbone:
    """Return the trunk of a classifier that was trained with labels."""
    recipe = load_experiment(DIGITS, [*SMALL, *sets])
    artifacts: dict[str, Any] = build_views(recipe.data)._asdict()
    for step in plan(recipe, ("pretrain", "classify")):
        inputs = {name: artifacts[name] for name in step.inputs}
        artifacts.update(run_step(step, inputs, Context()))
    backbone: Backbone = artifacts["backbone"]
    return backbone


def evaluated(checkpoint: Path, *sets: str) -> tuple[Backbone, dict[str, float]]:
    """Return trunk and metrics of a recipe that starts from a checkpoint."""
    method = f"pretrain.method={{pretrained: {{checkpoint: {checkpoint}, pretrained_on: nothing}}}}"
    recipe = load_experiment(DIGITS, [*SMALL, method, *sets])
    artifacts = run(recipe, Context(seed=recipe.seed))
    found: Evaluation = artifacts["evaluation"]
    return artifacts["backbone"], found.metrics


def marks(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["evaluate/leaked_pretraining"], metrics["evaluate/unknown_pretraining"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An own trunk, trained with labels of the known classes of ``data.seed=0``."""
    folder = tmp_path_factory.mktemp("own")
    save_artifact(trained(), folder)
    return folder / "tensors.safetensors"


def test_an_own_trunk_of_the_same_cut_is_clean_and_starts_with_its_weights(own: Path) -> None:
    backbone, metrics = evaluated(own, "classify.training.epochs=0")
    assert marks(metrics) == (0.0, 0.0)
    count = len(load_artifact(Backbone, own.parent).training_images)
    assert backbone.pretrained_on == f"{count} labelled images of another recipe"
    weights = load_artifact(Backbone, own.parent).state
    assert all(torch.equal(value, backbone.state[name]) for name, value in weights.items())


@pytest.mark.parametrize("world", ["validation", "test"])
def test_an_own_trunk_that_saw_labels_of_new_classes_is_leaked(own: Path, world: str) -> None:
    # another seed of the data: other classes are new
    assert marks(evaluated(own, "data.seed=5", f"data.world={world}")[1]) == (1.0, 0.0)


def test_labels_of_held_out_images_of_known_classes_are_a_leak(own: Path) -> None:
    closed = ("data.novel_classes=0", "data.validation_novel_classes=0")
    # every class is known in both, other images validate
    assert marks(evaluated(own, *closed, "data.seed=5")[1]) == (1.0, 0.0)


def test_a_trunk_of_a_trunk_remembers_both(own: Path, tmp_path: Path) -> None:
    method = f"pretrain.method={{pretrained: {{checkpoint: {own}}}}}"
    second = trained(method, "data.seed=5")
    assert torch.equal(
        second.pretraining_images, load_artifact(Backbone, own.parent).training_images
    )
    save_artifact(second, tmp_path)
    origin = origin_of_file(own_trunk(tmp_path / "tensors.safetensors"), 8)
    seen = torch.cat([second.pretraining_images, second.training_images]).unique()
    assert torch.equal(origin.labelled, seen)
    assert origin.text.count("of another recipe") == 2


@pytest.mark.parametrize("statement", ["nothing", "my own photos"])
def test_what_a_recipe_says_of_a_file_is_no_proof(
    own: Path, tmp_path: Path, statement: str
) -> None:
    plain = tmp_path / "trunk.safetensors"
    save_file(load_artifact(Backbone, own.parent).state, plain)
    origin = origin_of_file(own_trunk(plain), 8, stated=statement)
    assert origin.text == f"not known; the recipe says: {statement}"
    backbone, metrics = evaluated(plain)
    assert marks(metrics) == (0.0, 1.0)
    assert backbone.pretrained_on == "not known; the recipe says: nothing"


def test_artifacts_without_digests_are_not_known(own: Path, tmp_path: Path) -> None:
    old = load_artifact(Backbone, own.parent)
    save_artifact(old._replace(pretraining_images=None, training_images=None), tmp_path)
    document = json.loads((tmp_path / "artifact.json").read_text())
    for name in ("pretraining_images", "training_images"):
        del document["fields"][name]  # as an earlier version wrote it
    (tmp_path / "artifact.json").write_text(json.dumps(document))
    path = tmp_path / "tensors.safetensors"
    assert load_artifact(Backbone, tmp_path).training_images is None
    assert origin_of_file(own_trunk(path), 8).text == "not known"


def test_labels_of_images_of_another_size_cannot_be_compared(own: Path) -> None:
    origin = origin_of_file(own_trunk(own), 16)
    assert not is_known(origin.text)
    assert origin.text.endswith("8 pixels wide, here 16")


def test_an_own_trunk_without_labels_is_clean(tmp_path: Path) -> None:
    recipe = load_experiment(DIGITS, [*SMALL])
    step = plan(recipe)[0]
    views = build_views(recipe.data)
    save_artifact(
        run_step(step, {"known_train": views.known_train}, Context())["backbone"], tmp_path
    )
    backbone, metrics = evaluated(tmp_path / "tensors.safetensors", "data.seed=5")
    assert marks(metrics) == (0.0, 0.0)
    assert backbone.pretrained_on == "images without labels of another recipe"


def test_a_file_beside_the_manifest_of_something_else_is_no_own_trunk(
    own: Path, tmp_path: Path
) -> None:
    save_file(load_file(own), tmp_path / "tensors.safetensors")
    for text in ('{"type": "Classifier"}', "[]", "{", ""):
        (tmp_path / "artifact.json").write_text(text)
        assert own_trunk(tmp_path / "tensors.safetensors") is None


def test_weights_of_timm_are_named_by_their_configuration() -> None:
    config = timm.get_pretrained_cfg("resnet18").to_dict()
    origin = origin_of_timm(config)
    assert origin.labels == ("imagenet-1k",)
    assert (origin.text, len(origin.labelled)) == ("timm:resnet18.a1_in1k", 0)
    assert is_known(origin.text)
    assert origin_of_timm({}).text == "not known"


def view(*shades: int) -> LabelledView:
    images = np.stack([np.full((8, 8, 3), shade, dtype=np.uint8) for shade in shades])
    count = np.arange(len(shades))
    return LabelledView(images, count, np.zeros(len(shades), dtype=np.int64), 1, "")


def test_digests_tell_pixels_and_shapes_apart_and_count_an_image_once() -> None:
    assert len(image_digests(view(1, 2, 1), view(2, 3))) == 3
    flat = ImageView(np.zeros((1, 4, 16, 3), dtype=np.uint8), np.arange(1), "")
    assert not torch.isin(image_digests(flat), image_digests(view(0))).any()
    assert image_digests(view(9, 8)).tolist() == sorted(image_digests(view(8, 9)).tolist())


@pytest.mark.parametrize(
    ("seen", "withheld", "own", "leaked"),
    [
        ((), (5,), (1,), False),
        ((1, 2), (5,), (1, 2), False),
        ((1, 2), (2, 5), (1,), True),
        ((1, 2), (2, 5), (1, 2), False),  # a copy that the recipe itself trains on
        ((1, 2, 5), (2, 5), (1, 2), True),
    ],
)
def test_a_leak_is_a_withheld_image_that_the_recipe_does_not_train_on(
    seen: tuple[int, ...], withheld: tuple[int, ...], own: tuple[int, ...], leaked: bool
) -> None:
    digests = image_digests(view(*seen)) if seen else torch.empty(0, dtype=torch.int64)
    trunk = Backbone("fastnet", 8, 4, "x", {}, pretraining_images=digests)
    assert saw_labels_of(trunk, [view(*withheld)], view(*own)) is leaked


def test_figures_of_an_unknown_trunk_are_not_called_clean() -> None:
    assert caution("nothing") == ""
    assert "not clean" in caution("not known; the recipe says: nothing")
    assert "not clean" not in caution("timm:resnet18.a1_in1k")
