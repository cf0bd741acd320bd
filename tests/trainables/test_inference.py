"""An exported model answers as its stages did. The models come from a real, short training."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "orchestrator"))
from exported import exported, recipe, views_of

from trainables.errors import ConfigError
from trainables.inference import Model, describe_model, load_model, read_card, yardstick
from trainables.measure import class_order, measure
from trainables.source_cache import fit_image


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


def test_measured_again_gives_the_numbers_of_the_evaluate_stage(model: Model) -> None:
    stored = stored_metrics(exported())
    found = measure(
        model,
        views_of(),
        recipe().evaluate,
        class_names=views_of().summary["known_class_names"],
        class_counts=model.card.class_counts,
    )
    wanted = {"accuracy/balanced", "accuracy/few", "calibration/ece", "novelty/auroc"}
    assert {f"evaluate/{name}" for name in (*wanted, "update/forgetting")} <= found.keys()
    assert found == pytest.approx({name: stored[name] for name in found}, abs=1e-6)


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
    with pytest.raises(ValueError, match="the model knows the classes"):
        class_order(model, [*names[1:], "zebra"])


def test_prediction_is_classifier_scorer_and_names(model: Model) -> None:
    views = views_of()
    held = views.held_out_known
    images = held.images[held.indices]
    found = model.predict(images)
    outputs = model.outputs(held)
    assert np.array_equal(found.class_index, outputs.updated.argmax(1).numpy())
    assert found.class_name == [model.card.class_names[i] for i in found.class_index]
    assert np.allclose(found.probability, outputs.updated.softmax(1).amax(1).numpy())
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


def test_trunk_that_an_update_left_alone_runs_once(model: Model) -> None:
    shared = model._trunk is model._updated_trunk
    same = (exported() / "backbone" / "tensors.safetensors").read_bytes() == (
        exported() / "updated_backbone" / "tensors.safetensors"
    ).read_bytes()
    assert shared == same


def test_folder_without_card_or_part_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no model folder: it has no model\.json"):
        load_model(tmp_path)
    folder = shutil.copytree(exported(), tmp_path / "model")
    shutil.rmtree(folder / "scorer")
    (folder / "updated_backbone" / "tensors.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks scorer, updated_backbone$"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format 99; this program reads <= 1"),
        ({"num_known": None}, "damaged or of another format"),
        ({"class_names": ["a"]}, "names 1 classes, the updated classifier has"),
    ],
)
def test_card_that_does_not_fit_is_one_line(tmp_path: Path, change: dict, message: str) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    card = json.loads((folder / "model.json").read_text("utf-8"))
    (folder / "model.json").write_text(json.dumps({**card, **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_yardstick_changes_with_views_bands_and_settings() -> None:
    views = views_of()
    base = yardstick(views, [5, 3], {"bins": 15})
    assert yardstick(views, [5, 3], {"bins": 15}) == base
    moved = views._replace(held_out_novel=views.held_out_novel._replace(digest="x"))
    others = [
        yardstick(moved, [5, 3], {"bins": 15}),
        yardstick(views, [5, 4], {"bins": 15}),
        yardstick(views, [5, 3], {"bins": 10}),
    ]
    assert len({base, *others}) == 4
    # the training views are no part of it
    trained = views._replace(known_train=views.known_train._replace(digest="x"))
    assert yardstick(trained, [5, 3], {"bins": 15}) == base


def test_describing_again_writes_the_same(tmp_path: Path) -> None:
    folder = shutil.copytree(exported(), tmp_path / "model")
    before = (folder / "model.json").read_bytes()
    describe_model(folder, views_of())
    assert (folder / "model.json").read_bytes() == before


def test_nothing_in_the_folder_is_pickled() -> None:
    kinds = {path.suffix for path in exported().rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".yaml"}
