"""An exported model answers as its stages did. The models come from a real, short training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.exported import exported, exported_before, recipe, views_of
from trainables.artifacts import Backbone, Classifier, Scorer, load_artifact
from trainables.data.source_cache import fit_image
from trainables.errors import ConfigError
from trainables.features.predict import calibrated, confidence, predict_logits
from trainables.inference.card import describe_model, evaluation_digest, read_card
from trainables.inference.evaluate_exported import class_order, measure
from trainables.inference.model import Model, load_model
from trainables.models.backbone import extract_features, from_artifact


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(exported())


def stored_metrics(folder: Path) -> dict[str, float]:
    document = json.loads((folder / "evaluation" / "artifact.json").read_text("utf-8"))
    return dict(document["fields"]["metrics"])


def test_card_names_known_and_discovered_classes(model: Model) -> None:
    card, views = model.card, views_of()
    assert list(card.class_names[: card.num_known]) == views.summary["known_class_names"]
    discovered = card.class_names[card.num_known :]
    assert discovered == tuple(f"new-{n}" for n in range(len(discovered)))
    assert len(discovered) >= 1
    assert card.image_size == 8
    assert list(card.class_counts) == views.summary["class_counts"]
    assert card.protocol_hash == views.summary["protocol_hash"]
    assert read_card(exported()) == card


@pytest.mark.parametrize("served", ["first", "updated"])
def test_measured_again_gives_the_numbers_of_the_evaluate_stage(served: str) -> None:
    folder = exported(served=served)  # type: ignore[arg-type]
    stored, model = stored_metrics(folder), load_model(folder)
    found = measure(
        model,
        views_of(),
        recipe().evaluate,
        class_names=views_of().summary["known_class_names"],
        class_counts=model.card.class_counts,
    )
    wanted = {"accuracy/balanced", "accuracy/few", "accuracy/open", "calibration/ece"}
    wanted |= {"novelty/auroc", "novelty/false_alarm"}
    assert {f"test/{name}" for name in wanted} <= found.keys()
    assert ("test/accuracy/new" in found) == (served == "updated")
    names = {name: name.replace("test/", f"evaluate/{served}/") for name in found}
    assert found == pytest.approx({name: stored[names[name]] for name in found}, abs=1e-6)


def test_classes_in_another_order_are_matched_by_name(model: Model) -> None:
    views = views_of()
    names = list(views.summary["known_class_names"])
    turned = names[::-1]
    held = views.held_out_known
    swapped = views._replace(
        held_out_known=held._replace(labels=len(names) - 1 - held.labels),
    )
    arguments = {"settings": recipe().evaluate}
    plain = measure(
        model, views, class_names=names, class_counts=model.card.class_counts, **arguments
    )
    again = measure(
        model, swapped, class_names=turned, class_counts=model.card.class_counts[::-1], **arguments
    )
    assert again == pytest.approx(plain, abs=1e-6)
    with pytest.raises(ValueError, match="the model has the classes"):
        class_order(model, [*names[1:], "zebra"])


def test_prediction_is_classifier_scorer_and_names(model: Model) -> None:
    views = views_of()
    held = views.held_out_known
    images = held.images[held.indices]
    found = model.predict(images)
    outputs = model.outputs(held)
    assert np.array_equal(found.class_index, outputs.logits.argmax(1).numpy())
    assert found.class_name == [model.card.class_names[i] for i in found.class_index]
    assert np.allclose(found.probability, outputs.logits.softmax(1).amax(1).numpy())
    assert np.array_equal(found.known, outputs.confidence.numpy() >= model.scorer.threshold)
    assert found.known.any()
    assert not found.known.all()
    assert (found.class_index == held.labels).mean() > 0.5
    types = [found.class_index.dtype, found.probability.dtype, found.known.dtype]
    assert types == [np.int64, np.float32, np.bool_]


def test_images_of_any_size_are_fitted_as_training_images_are(model: Model) -> None:
    rng = np.random.default_rng(0)
    wide, tall = (rng.integers(0, 256, shape, np.uint8) for shape in ((11, 20, 3), (40, 9, 3)))
    fitted = np.stack([fit_image(wide, 8), fit_image(tall, 8)])
    for one, other in zip(model.predict([wide, tall]), model.predict(fitted), strict=True):
        assert list(one) == list(other)
    assert model.fit(wide[None]).shape == (1, 8, 8, 3)


def test_no_images_no_answers(model: Model) -> None:
    for images in (np.empty((0, 8, 8, 3), np.uint8), []):
        found = model.predict(images)
        assert [len(part) for part in found] == [0] * 5


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 0, 8, 3), np.uint8),
        [np.zeros((1, 8, 8, 3), np.uint8)],
        ["cat.png"],
    ],
)
def test_other_shapes_and_types_are_refused(model: Model, images) -> None:
    with pytest.raises(ValueError, match="images: expected uint8"):
        model.predict(images)


def parts_of(folder: Path) -> tuple[Backbone, Classifier, Scorer]:
    return (
        load_artifact(Backbone, folder / "backbone"),
        load_artifact(Classifier, folder / "classifier"),
        load_artifact(Scorer, folder / "scorer"),
    )


@pytest.mark.parametrize("served", ["first", "updated"])
def test_answers_are_those_of_one_classifier_and_its_own_scorer(served: str) -> None:
    folder = exported(served=served)  # type: ignore[arg-type]
    backbone, classifier, scorer = parts_of(folder)
    held = views_of().held_out_known
    features = extract_features(from_artifact(backbone), held)
    logits = calibrated(scorer, predict_logits(classifier, features))
    sure = confidence(
        scorer, features=features, logits=logits, class_counts=classifier.class_counts
    )
    found = load_model(folder).outputs(held)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.confidence, sure)
    assert read_card(folder).served == served
    new = len(classifier.class_counts) - read_card(folder).num_known
    assert (new > 0) == (served == "updated")


def test_a_model_of_before_answers_as_it_did(tmp_path: Path) -> None:
    folder = exported_before(tmp_path / "model")
    backbone, first, scorer = parts_of(exported(served="first"))
    updated_backbone, updated, _ = parts_of(exported())
    held = views_of().held_out_known
    features = extract_features(from_artifact(backbone), held)
    logits = calibrated(scorer, predict_logits(first, features))
    sure = confidence(scorer, features=features, logits=logits, class_counts=first.class_counts)
    after = extract_features(from_artifact(updated_backbone), held)
    model = load_model(folder)
    found = model.outputs(held)
    torch.testing.assert_close(found.logits, predict_logits(updated, after))  # not calibrated
    torch.testing.assert_close(found.confidence, sure)
    predicted = model.predict(held.images[held.indices])
    assert np.array_equal(predicted.known, sure.numpy() >= scorer.threshold)
    assert np.array_equal(predicted.class_index, found.logits.argmax(1).numpy())


def test_a_discovered_class_has_a_name_of_its_own(tmp_path: Path) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    views = views_of()
    names = ["new-0", *views.summary["known_class_names"][1:]]
    card = describe_model(
        folder, views._replace(summary={**views.summary, "known_class_names": names})
    )
    assert card.class_names[0] == "new-0"
    assert card.class_names[card.num_known] == "new-1"
    assert len(set(card.class_names)) == len(card.class_names)


def test_folder_without_card_or_part_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a model folder: it has no model\.json"):
        load_model(tmp_path)
    folder = shutil.copytree(exported(), tmp_path / "model")
    shutil.rmtree(folder / "scorer")
    (folder / "backbone" / "tensors.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks backbone, scorer$"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format 99; this program reads <= 5"),
        ({"num_known": None}, "damaged or of another format"),
        ({"class_names": ["a"]}, "names 1 classes, the classifier has"),
    ],
)
def test_card_that_does_not_fit_is_one_line(tmp_path: Path, change: dict, message: str) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    card = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**card, **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def of_another_class(path: Path) -> None:
    path.write_text(path.read_text().replace('"type": "', '"type": "Other'))


def of_an_unknown_method(path: Path) -> None:
    path.write_text(path.read_text().replace('"linear"', '"linaer"'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("classifier/tensors.safetensors", cut),
        ("backbone/tensors.safetensors", binary),
        ("scorer/artifact.json", cut),
        ("classifier/artifact.json", binary),
        ("backbone/artifact.json", of_another_class),
        ("classifier/artifact.json", of_an_unknown_method),
    ],
)
def test_damaged_part_is_one_line(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    before = (folder / name).read_bytes()
    damage(folder / name)
    assert (folder / name).read_bytes() != before
    with pytest.raises(ConfigError, match=f"model: {name.partition('/')[0]} is damaged") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_one_line(tmp_path: Path) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    fewer_classes = exported(served="first") / "classifier/tensors.safetensors"
    shutil.copy(fewer_classes, folder / "classifier")
    with pytest.raises(ConfigError, match="model") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_card_of_format_1_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    card = json.loads((folder / "model.json").read_text("utf-8"))
    card |= {"format_version": 1, "yardstick": card.pop("evaluation_digest")}
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    assert read_card(folder).evaluation_digest == read_card(exported()).evaluation_digest


def test_evaluation_digest_changes_with_views_bands_and_settings() -> None:
    views = views_of()
    base = evaluation_digest(views, [5, 3], {"bins": 15})
    assert evaluation_digest(views, [5, 3], {"bins": 15}) == base
    moved = views._replace(held_out_novel=views.held_out_novel._replace(digest="x"))
    others = [
        evaluation_digest(moved, [5, 3], {"bins": 15}),
        evaluation_digest(views, [5, 4], {"bins": 15}),
        evaluation_digest(views, [5, 3], {"bins": 10}),
        evaluation_digest(
            views._replace(held_out_unknown=views.held_out_unknown._replace(digest="x")),
            [5, 3],
            {"bins": 15},
        ),
    ]
    assert len({base, *others}) == 5
    # the training views are no part of it
    trained = views._replace(known_train=views.known_train._replace(digest="x"))
    assert evaluation_digest(trained, [5, 3], {"bins": 15}) == base


def test_describing_again_writes_the_same(tmp_path: Path) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    before = (folder / "model.json").read_bytes()
    describe_model(folder, views_of())
    assert (folder / "model.json").read_bytes() == before


def test_nothing_in_the_folder_is_pickled() -> None:
    kinds = {path.suffix for path in exported().rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".yaml"}
