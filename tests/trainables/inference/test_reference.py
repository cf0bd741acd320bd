"""Known images that a model was not fitted to, and how strange an image looks beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.exported import exported, exported_before, views_of
from trainables.artifacts import (
    Backbone,
    Classifier,
    OutOfFold,
    Scorer,
    load_artifact,
    save_artifact,
)
from trainables.errors import ConfigError
from trainables.inference.model import Model, Outputs, load_model
from trainables.inference.reference import Reference, Strangeness, reference_of, strangeness

NAMES = {"backbone": "backbone", "classifier": "classifier", "scorer": "scorer"}


@pytest.mark.parametrize(
    ("served", "sets"),
    [("first", ()), ("updated", ()), ("updated", ("update.mode=full",))],
    ids=["first", "updated", "updated trunk"],
)
def test_an_exported_model_holds_its_answers_to_the_validation_images(
    served: str, sets: tuple[str, ...]
) -> None:
    folder = exported(0, *sets, served=served)  # type: ignore[arg-type]
    stored = load_artifact(Reference, folder / "reference")
    outputs = load_model(folder).outputs(views_of().validation_known)
    torch.testing.assert_close(stored.confidence, outputs.confidence, rtol=1e-4, atol=1e-3)
    assert torch.equal(stored.predicted, outputs.logits.argmax(1))


def test_strangeness_is_counted_as_by_hand() -> None:
    generator = np.random.default_rng(0)
    known = np.round(generator.normal(size=200), 1)  # with ties
    asked = np.concatenate([np.round(generator.normal(size=50), 1), [-9.0, 9.0, -np.inf, np.inf]])
    found = strangeness(torch.from_numpy(asked), torch.from_numpy(np.sort(known)))
    assert [item.as_strange for item in found] == [int((known <= value).sum()) for value in asked]
    assert {item.of for item in found} == {200}
    assert Strangeness(1, 200).share == 0.005


def test_classes_with_thresholds_of_their_own_are_compared_by_their_margins() -> None:
    model = load_model(exported())
    classes = len(model.card.class_names)
    own = torch.arange(float(classes))  # class 0 has the threshold 0, class 1 has 1, ...
    parts = {
        "backbone": load_artifact(Backbone, exported() / "backbone"),
        "classifier": model.classifier,
        "scorer": model.scorer._replace(class_thresholds=own),
    }
    # margins: 0.5, 0.25, -1, 0.75
    known = Reference(torch.tensor([0.5, 1.25, 1.0, 3.75]), torch.tensor([0, 1, 2, 3]))
    found = Model(parts, model.card, reference=known)
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 2, 3]), classes).float()
    outputs = Outputs(logits, torch.tensor([0.5, 1.0, 2.5, 0.5, 9.0]))  # .5, 0, .5, -1.5, 6
    strange = found.strangeness(outputs)
    assert strange is not None
    assert [item.as_strange for item in strange] == [3, 1, 3, 0, 4]
    assert found.known(outputs).tolist() == [True, True, True, False, True]


def test_a_model_without_the_folder_answers_without_strangeness(tmp_path: Path) -> None:
    shutil.copytree(exported(), tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "reference")
    view = views_of().held_out_known
    with_it, without = load_model(exported()), load_model(tmp_path / "model")
    outputs = without.outputs(view)
    assert without.strangeness(outputs) is None
    assert with_it.strangeness(outputs) is not None
    assert torch.equal(without.known(outputs), with_it.known(outputs))
    former = load_model(exported_before(tmp_path / "former"))
    assert former.strangeness(former.outputs(view)) is None


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(exported(), tmp_path / "model")
    (tmp_path / "model" / "reference" / "tensors.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match="reference is damaged"):
        load_model(tmp_path / "model")


def test_answers_of_other_classes_are_one_line(tmp_path: Path) -> None:
    shutil.copytree(exported(), tmp_path / "model")
    scorer = load_artifact(Scorer, tmp_path / "model/scorer")
    own = torch.zeros(len(load_model(exported()).card.class_names))
    save_artifact(scorer._replace(class_thresholds=own), tmp_path / "model/scorer")
    other = Reference(torch.zeros(2), torch.tensor([0, len(own)]))
    save_artifact(other, tmp_path / "model/reference")
    with pytest.raises(ConfigError, match="model is damaged: IndexError"):
        load_model(tmp_path / "model")


def without_validation(held: OutOfFold | None) -> dict[str, Any]:
    """Return the artifacts of a run without validation images: the first model of a real one."""
    parts = exported(served="first")
    view = views_of().validation_known
    found = {
        "backbone": load_artifact(Backbone, parts / "backbone"),
        "classifier": load_artifact(Classifier, parts / "classifier"),
        "scorer": load_artifact(Scorer, parts / "scorer"),
        "validation_known": view._replace(labels=view.labels[:0], indices=view.indices[:0]),
    }
    return found if held is None else {**found, "out_of_fold": held}


def held(confidence: Tensor, classes: int) -> OutOfFold:
    count = 5
    logits = torch.zeros(count, classes)
    logits[torch.arange(count), torch.tensor([2, 0, 1, 1, 0])] = 3.0
    return OutOfFold(logits, confidence, torch.arange(count))


def test_without_validation_images_answers_without_the_group_stand_in() -> None:
    confidence = torch.tensor([0.5, -0.5, 0.25, 0.75, 0.0], dtype=torch.float64)
    classes = len(load_artifact(Classifier, exported(served="first") / "classifier").class_counts)
    found = reference_of(without_validation(held(confidence, classes)), NAMES)
    assert found is not None
    assert found.confidence.dtype == torch.float32
    assert found.confidence.tolist() == confidence.tolist()
    assert found.predicted.tolist() == [2, 0, 1, 1, 0]


def test_answers_of_another_classifier_do_not_stand_in() -> None:
    classes = len(load_artifact(Classifier, exported(served="first") / "classifier").class_counts)
    none = torch.zeros(0)
    assert reference_of(without_validation(held(torch.zeros(5), classes)), NAMES) is not None
    for other in (None, held(none, classes), held(torch.zeros(5), classes + 1)):
        assert reference_of(without_validation(other), NAMES) is None
