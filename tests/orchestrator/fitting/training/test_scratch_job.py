"""A fit without pretrained weights: interrupted, gone on with, and its figures counted again."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import orchestrator
from orchestrator.execution.execute import execute, rebuild
from orchestrator.fitting import backbone
from orchestrator.fitting.backbone import choose_backbone
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fitted_model import FittedModel
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.rehearsing import SCORES
from orchestrator.fitting.start import fit_photos, show_dry_run
from orchestrator.fitting.training import scratch
from orchestrator.store.stage_store import StageStore
from tests.helpers.small_fit import few_variants, write_weights
from trainables.artifacts import ImageView
from trainables.context import Context
from trainables.inference.card import read_card
from trainables.inference.model import Model
from trainables.methods.scores import Score
from trainables.settings import assign

NAMES = {0: "zero", 1: "one", 2: "two", 3: "three", 6: "six"}
SIZES = {0: 60, 1: 60, 2: 55, 3: 55, 6: 12}


class StopsAt(Lines):
    """Lines that are interrupted where a label is said."""

    def __init__(self, label: str) -> None:
        super().__init__(io.StringIO())
        self._label = label

    def say(self, label: str, text: str) -> None:
        if label == self._label:
            raise KeyboardInterrupt
        super().say(label, text)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = tmp_path_factory.mktemp("desk")
    images, labels = load_digits(return_X_y=True)
    for digit, size in SIZES.items():
        folder = desk / "digits" / NAMES[digit]
        folder.mkdir(parents=True)
        for number, pixels in enumerate(images[labels == digit][:size]):
            square = (pixels.reshape(8, 8) * 15.9).astype(np.uint8).repeat(4, 0).repeat(4, 1)
            Image.fromarray(square).save(folder / f"{number:02d}.png")
    return desk


@pytest.fixture(scope="module")
def options(desk: Path) -> FitOptions:
    return FitOptions(photos=desk / "digits", backbone="none", storage=str(desk / "runs"))


@pytest.fixture(scope="module")
def fitted(options: FitOptions, desk: Path) -> FittedModel:
    """Return the model of a fit that was interrupted after its first training."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow and pandas deprecate inside MLflow
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(scratch, "EPOCHS", (24, 24))
        with pytest.raises(KeyboardInterrupt):
            fit_photos(options, StopsAt("training"))
        first = trainings(desk)
        assert len(first) == 1
        asked = {name: getattr(options, name) for name in ("backbone", "storage")}
        model = orchestrator.fit(options.photos, quiet=True, **asked)
        again = trainings(desk)
        assert len(again) == 2  # the network, and that of the rehearsal
        assert first.items() <= again.items()  # not done again
    return model


def trainings(desk: Path) -> dict[str, int]:
    found = (desk / "runs" / "stages" / "classify").glob("*/manifest.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_all_classes_are_known_and_the_champion_answers(fitted: FittedModel, desk: Path) -> None:
    record = fitted.record
    assert record.promotion is not None
    assert record.promotion.promoted
    assert set(fitted.class_names) == set(NAMES.values())
    assert record.backbone == "small network from scratch"
    assert record.image_size == 32
    assert set(record.figures.by_class) == set(NAMES.values()) - {"six"}  # too few for a test
    assert record.figures.balanced.mean > 0.6  # chance is 0.2
    file = desk / "digits" / "zero" / "00.png"
    assert fitted.predict(file).class_name == "zero"
    assert record.recipe["classify"]["training"]["epochs"] == 24


def test_no_image_that_calibrates_trains(fitted: FittedModel, desk: Path) -> None:
    recipe = rebuild(fitted.record.recipe)
    found = execute(recipe, StageStore(str(desk / "runs")), Context()).artifacts
    train, kept = found["known_train"], found["validation_known"]
    assert not set(train.indices.tolist()) & set(kept.indices.tolist())
    assert len(train.labels) + len(kept.labels) == fitted.record.photos.train
    assert len(kept.labels) == fitted.record.search.kept_out
    inside = [names_of(train)[label] for label in kept.labels]
    assert "six" not in inside
    right = (
        np.array([fitted.model.answer(kept.images[[n]]).class_index[0] for n in kept.indices])
        == kept.labels
    )
    by_class = [right[kept.labels == label].mean() for label in np.unique(kept.labels)]
    assert fitted.record.search.honest.mean == pytest.approx(np.mean(by_class))


def names_of(view: object) -> list[str]:
    return [str(name) for name in view.class_names]  # type: ignore[attr-defined]


def test_the_fold_is_counted_again_by_a_served_model(fitted: FittedModel, desk: Path) -> None:
    table = fitted.rehearsal
    new = sorted(table["class"])
    assert len(new) == 2
    home = desk / "runs" / "models" / "digits"
    counted = [
        rows_by_hand(fitted, desk, new, f"table:{home / 'rehearsal-photos.csv'}", score)
        for score in SCORES
    ]
    means = [np.mean([row[2] for row in rows.values()]) for rows in counted]
    assert rebuild(fitted.record.recipe).score.method == Score.parse(SCORES[int(np.argmax(means))])
    for row in table.to_dict("records"):
        (other,) = set(new) - {row["class"]}  # it chose the score
        best = int(np.argmax([rows[other][2] for rows in counted]))
        images, noticed, auroc = counted[best][row["class"]]
        assert row["images"] == images
        assert row["noticed"] == pytest.approx(noticed)
        assert row["auroc"] == pytest.approx(auroc, abs=1e-6)


def rows_by_hand(
    fitted: FittedModel, desk: Path, new: list[str], source: str, score: str
) -> dict[str, tuple[int, float, float]]:
    """Return images, notice rate and AUROC of each new class by a served model with a score."""
    fold = assign(rebuild(fitted.record.recipe), {"data.source": source, "score.method": score})
    parts = execute(fold, StageStore(str(desk / "runs")), Context()).artifacts
    known = names_of(parts["known_train"])
    assert sorted(known + new) == sorted(NAMES.values())
    card = read_card(desk / "runs" / "models" / "digits" / "served")
    model = Model(parts, card.model_copy(update={"class_names": tuple(known)}))
    full = rebuild(fitted.record.recipe)
    views = execute(full, StageStore(str(desk / "runs")), Context()).artifacts
    found = {}
    for name in new:
        label = names_of(views["known_train"]).index(name)
        images = [
            view.images[view.indices[view.labels == label]]
            for view in (views["known_train"], views["validation_known"])
        ]
        answers = model.answer(np.concatenate(images))
        sure = confidence_of(model, parts["validation_known"])
        pairs = sure[:, None] - answers.confidence[None]
        auroc = float(((pairs > 0) + (pairs == 0) / 2).mean())
        found[name] = (len(answers.known), 1 - float(answers.known.mean()), auroc)
    return found


def confidence_of(model: Model, view: object) -> np.ndarray:  # type: ignore[type-arg]
    return model.outputs(ImageView(view.images, view.indices, "")).confidence.numpy()  # type: ignore[attr-defined]


# what MLflow itself uses of SQLAlchemy and pandas, and what it says of the packaged model
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.filterwarnings("ignore:Operation with range is deprecated")
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
@pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method")
def test_weights_that_come_take_the_place_of_the_small_network(
    fitted: FittedModel,
    options: FitOptions,
    desk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first fit finds no weights, nor does the second; the third finds them."""
    few = few_variants()
    weights = write_weights(tmp_path / "weights")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(scratch, "EPOCHS", (24, 24))  # stored already, as the fit of `fitted` ran
    monkeypatch.setattr("orchestrator.fitting.job.list_variants", lambda: few)
    usual = options.model_copy(update={"backbone": ""})
    remedies = "give --backbone NAME=FILE, or install the package x"

    def away(gpu: bool) -> None:
        raise backbone.WeightsAwayError(f"--backbone: the weights are away; {remedies}")

    monkeypatch.setattr(backbone, "_usual", away)
    planned, first, again, came = (io.StringIO() for _ in range(4))
    show_dry_run(usual, Lines(planned))
    trained = fit_photos(usual, Lines(first))
    assert trained.backbone == "small network from scratch"
    said = f"backbone   --backbone: the weights are away; {remedies}"
    for screen in (planned, first):
        assert [line for line in screen.getvalue().splitlines() if remedies in line] == [said]
        assert "six has under 25 images: it all trains, and has no figure" in screen.getvalue()
    assert fit_photos(usual, Lines(again)).key == trained.key
    assert "nothing changed since" in again.getvalue()

    monkeypatch.setattr(backbone, "_usual", lambda gpu: choose_backbone(str(weights), gpu=gpu))
    found = fit_photos(usual, Lines(came))
    assert found.backbone == "weights"
    assert trained.key == f"{found.key}-without-weights"
    assert found.promotion is not None
    assert trained.promotion is not None
    assert found.promotion.version != trained.promotion.version
    assert remedies not in came.getvalue()
    assert "six has under 25 images: it all trains, its figures are out-of-fold" in came.getvalue()
