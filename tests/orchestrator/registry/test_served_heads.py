"""Classifiers of every make answer after export, registration and download as in their own run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.answering.stream import predict_files
from orchestrator.registry.packaging import as_text
from orchestrator.registry.predictor import open_version
from orchestrator.registry.versions import Registry
from tests.helpers.exported import exported, new_run, recipe, views_of
from trainables.context import Context
from trainables.features.predict import calibrated, confidence, head_module
from trainables.models.backbone import extract_features, from_artifact
from trainables.pipeline import run

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]

MISLAS = (
    "classify.mixing=mixup",
    "extract.batchnorm=shifted",
    "rebalance.method={lws_plus: {loss: label_aware_smoothing, epochs: 4}}",
)
RECIPES = {
    "mislas": MISLAS,
    "mislas, trunk updated": (*MISLAS, "update.mode=full"),
    "disalign": ("rebalance.method={disalign: {epochs: 4}}",),
    "aligned from the start": ("classify.head={aligned: {variant: official}}",),
    "bags": ("rebalance.method={bags: {epochs: 4}}",),
    "groups from the start": ("classify.head=group_softmax", "update.mode=full"),
    "ncm": ("rebalance.method={ncm: {distance: centered_normalized_squared_l2}}",),
    "means from the start": ("classify.head=nearest_mean", "update.mode=full"),
}
every_recipe = pytest.mark.parametrize("name", RECIPES)


class Answers(NamedTuple):
    """What a model says of some images."""

    class_index: np.ndarray
    probability: np.ndarray
    confidence: np.ndarray
    known: np.ndarray


@cache
def artifacts(name: str) -> dict[str, Any]:
    """Return what a run without any storage gave, as it was computed."""
    experiment = recipe(0, *RECIPES[name])
    return run(experiment, Context(seed=experiment.seed), views=views_of())


@cache
def expected(name: str) -> Answers:
    """Put the answers of the updated model together from the parts of the run."""
    parts, held = artifacts(name), views_of().held_out_known
    scorer, last = parts["updated_scorer"], parts["updated_classifier"]
    with torch.no_grad():
        features = extract_features(from_artifact(parts["updated_backbone"]), held)
        logits = calibrated(scorer, head_module(last)(features) + last.logit_offset)
        confidences = confidence(
            scorer, features=features, logits=logits, class_counts=last.class_counts
        )
        stated = logits.softmax(1)
    return Answers(
        stated.argmax(1).numpy(),
        stated.amax(1).numpy(),
        confidences.numpy(),
        (confidences >= scorer.threshold).numpy(),
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("heads")
    uri = f"sqlite:///{root}/mlflow.db"
    found = Registry(uri)
    for number, sets in enumerate(RECIPES.values(), start=1):
        folder = exported(0, *sets)
        assert found.register("heads", folder, new_run(uri, root), {"m": 1.0}, {}) == str(number)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder, held = tmp_path_factory.mktemp("images"), views_of().held_out_known
    paths = [folder / f"{number:03d}.png" for number in range(len(held.indices))]
    for path, index in zip(paths, held.indices, strict=True):
        Image.fromarray(held.images[index]).save(path)
    return paths


def version(name: str) -> str:
    return str(list(RECIPES).index(name) + 1)


def compare(name: str, found: Answers) -> None:
    wanted = expected(name)
    np.testing.assert_array_equal(found.class_index, wanted.class_index)
    np.testing.assert_array_equal(found.known, wanted.known)
    np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-6)
    np.testing.assert_allclose(found.confidence, wanted.confidence, rtol=1e-5, atol=1e-6)


@every_recipe
def test_the_predictor_answers_as_the_run_did(
    name: str, registry: Registry, files: list[Path]
) -> None:
    model = open_version(registry, "heads", version(name))
    assert len(model.card.class_names) > model.card.num_known, "the head has grown"
    answers = predict_files(model, files)
    compare(name, Answers(*(np.array([getattr(a, f) for a in answers]) for f in Answers._fields)))
    names = [model.card.class_names[index] for index in expected(name).class_index]
    assert [answer.class_name for answer in answers] == names


@every_recipe
def test_the_served_model_answers_as_the_run_did(
    name: str, registry: Registry, tmp_path: Path
) -> None:
    from orchestrator.registry.served_model import ServedModel

    folder = registry.download("heads", version(name), tmp_path / "model")
    served, held = ServedModel(), views_of().held_out_known
    served.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    texts = [as_text(held.images[index]) for index in held.indices]
    rows = served.predict(None, {"image": texts})
    compare(name, Answers(*(rows[field].to_numpy() for field in Answers._fields)))


@every_recipe
def test_the_models_are_what_their_names_say(name: str) -> None:
    parts = artifacts(name)
    kind = {"disalign": "aligned", "bags": "group_softmax", "mislas": "linear"}
    kind |= {"aligned from the start": "aligned", "groups from the start": "group_softmax"}
    kind |= {"ncm": "nearest_mean", "means from the start": "nearest_mean"}
    head = kind[name.partition(",")[0]]
    assert parts["classifier"].head.name == parts["updated_classifier"].head.name == head
    wanted = expected(name)
    assert (wanted.class_index == views_of().held_out_known.labels).mean() > 0.4
    assert wanted.known.any()
    assert not wanted.known.all()


def test_statistics_that_were_shifted_are_the_ones_that_answer(registry: Registry) -> None:
    model = open_version(registry, "heads", version("mislas"))
    unshifted = recipe(0, *RECIPES["mislas"], "extract.batchnorm=frozen")
    plain = run(unshifted, Context(seed=0), views=views_of())["backbone"].state
    ours, held = artifacts("mislas")["backbone"].state, views_of().held_out_known
    moved = {key for key in ours if not torch.equal(ours[key], plain[key])}
    assert moved
    assert all(".running_" in key or key.endswith("num_batches_tracked") for key in moved)
    found = model.outputs(held).logits
    model._trunk.load_state_dict(plain)
    assert not torch.allclose(model.outputs(held).logits, found, atol=1e-3)
