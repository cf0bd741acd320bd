"""A pretrained backbone from a folder of photos to predictions: preprocessing goes all the way."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from orchestrator.answering.stream import predict_files
from orchestrator.execution.execute import export_model
from tests.helpers.pictures import draw
from tests.helpers.weights import write_weights
from trainables.context import Context
from trainables.data.views import build_views
from trainables.experiment import Experiment, load_experiment
from trainables.inference.card import describe_model, read_card
from trainables.inference.model import load_model
from trainables.inference.uploads import decode_uploads
from trainables.pipeline import run
from trainables.settings import build, read_yaml

pytestmark = [  # MLflow's own type hints
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]
SIZES = ((61, 47), (40, 90), (48, 48), (70, 55))
NAMES = ("tench", "gadget", "widget", "sprocket")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_weights(root / "weights", tag="mine_in1k")
    for label, name in enumerate(NAMES):
        for number in range(14):
            part = "train" if number < 10 else "test"
            path = root / "photos" / part / name / f"{number:03}.png"
            draw(path, label, SIZES[(label + number) % 4], number)
    return root


@pytest.fixture(scope="module")
def recipe(root: Path) -> Experiment:
    return load_experiment(
        None,
        [
            f"data.source=folder:{root}/photos",
            f"pretrain.backbone=local-dir:{root}/weights",
            "pretrain.method=pretrained",
            "data.novel_classes=0",
            "data.validation_novel_classes=0",
            "data.validation_per_class=4",
            "data.stream.unrelated=0",
            "classify.training.epochs=0",
            "update.training.epochs=0",
            "rebalance.method=ncm",
            "data.world=test",
        ],
    )


@pytest.fixture(scope="module")
def folder(root: Path, recipe: Experiment) -> Path:
    """An exported model, after which the weights' folder is gone."""
    folder = root / "model"
    export_model(recipe.model_dump(mode="json"), {}, str(root / "storage"), folder, "first")
    describe_model(folder, build_views(recipe.data), "first")
    return folder


def files(root: Path) -> list[Path]:
    return sorted((root / "photos" / "test").rglob("*.png"))


def test_features_of_a_run_are_those_of_timm(root: Path, recipe: Experiment) -> None:
    artifacts = run(recipe, Context(seed=recipe.seed))
    network = timm.create_model(f"local-dir:{root}/weights", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=network))
    names = artifacts["summary"]["known_class_names"]
    assert sorted(names) == sorted(NAMES)
    paths = files(root)
    batch = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.inference_mode():
        expected = network(batch)
    found = artifacts["held_out_features"].first
    nearest = torch.cdist(expected, found).min(1)
    assert len({int(place) for place in nearest.indices}) == len(paths) == len(found)
    assert float(nearest.values.max()) < 1e-4 * float(expected.norm(dim=1).mean())


def test_the_model_answers_as_the_run_wherever_images_come_from(
    root: Path, recipe: Experiment, folder: Path
) -> None:
    card = read_card(folder)
    assert (card.image_size, card.interpolation, card.crop_fraction) == (48, "bicubic", 0.8)
    assert card.met_classes == ("tench",)
    assert card.pretrained_on == "not known; its config.json says: test_efficientnet.mine_in1k"
    away = root / "moved"
    shutil.move(root / "weights", away)  # the model needs them no more
    try:
        model = load_model(folder)
    finally:
        shutil.move(away, root / "weights")
    views = build_views(recipe.data)
    paths = files(root)
    truth = [path.parent.name for path in paths]
    held = views.held_out_known
    from_run = model.outputs(held).logits.softmax(1).max(1).values.sort().values
    answers = predict_files(model, paths)
    from_files = torch.tensor([answer.probability for answer in answers])
    torch.testing.assert_close(from_files.sort().values, from_run, atol=1e-5, rtol=1e-5)
    from orchestrator.registry.served_model import ServedModel

    served = ServedModel()
    served.model = model
    texts = [base64.b64encode(path.read_bytes()).decode("ascii") for path in paths]
    table = served.predict(None, {"image": texts})
    np.testing.assert_allclose(table["probability"], from_files.numpy(), atol=1e-6)
    assert list(table["class_name"]) == [answer.class_name for answer in answers]
    assert np.mean([*map(str.__eq__, table["class_name"], truth)]) > 0.4
    whole = model.predict(decode_uploads(texts))
    np.testing.assert_allclose(whole.probability, from_files.numpy(), atol=1e-6)
    assert os.path.isfile(folder / "experiment.yaml")
    assert str(root) not in (folder / "experiment.yaml").read_text()


def test_the_recipe_of_an_exported_model_reads_again_without_its_weights(folder: Path) -> None:
    found = build(Experiment, read_yaml(folder / "experiment.yaml"))
    assert found.pretrain.backbone == "local-dir:weights"
    assert found.data.image_size == 48
