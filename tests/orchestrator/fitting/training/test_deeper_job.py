"""A fit that goes deeper: compared on images that neither trained on, by values, on digits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.execution.execute import RecipeResult
from orchestrator.execution.store_executor import cached_views
from orchestrator.fitting import job as fit_job
from orchestrator.fitting.backbone import FrozenBackbone
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.fitted_model import FittedModel
from orchestrator.fitting.photo_folder import look_at_folder
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.service import Fitted, Tried
from orchestrator.fitting.start import fit_photos, show_dry_run
from orchestrator.fitting.training import network_job, training_plan, untried
from orchestrator.fitting.training.deeper import NOTHING_TO_TUNE, trained_blocks
from orchestrator.fitting.training.deeper_job import DeeperJob, noticed_of, was_right
from orchestrator.fitting.training.network_job import Trained
from orchestrator.fitting.training.training_plan import TrainingPlan
from orchestrator.fitting.trying.answer_table import AnswerTable
from orchestrator.fitting.trying.choosing import Answered, Choice
from orchestrator.options import EXPORTED, MODELS
from orchestrator.registry.versions import Registry
from orchestrator.tracking.mlflow_client import tracking_uri
from tests.helpers.small_fit import NAMES, few_variants, write_weights
from tests.orchestrator.fitting.test_screen import SEARCH
from trainables.artifacts import Classifier, Features
from trainables.errors import ConfigError
from trainables.experiment import Experiment, in_service
from trainables.inference.outcomes import BASE_FILE, OUTCOMES_FILE, load_outcomes
from trainables.methods.heads import Head
from trainables.rehearsal.outcome import Rehearsal, Turn
from trainables.settings import assign

pytestmark = [
    pytest.mark.slow,
    # MLflow's own use of SQLAlchemy and pandas, and what it says of the packaged model
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]

SIZES = {"zero": 170, "one": 170, "four": 150, "six": 12}


def write_moved_digits(folder: Path) -> Path:
    """Write digits at random places on noise, which random features do not tell apart."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(images[labels == NAMES.index(name)][:size]):
            canvas = rng.integers(0, 90, (32, 32)).astype(np.uint8)
            row, column = rng.integers(0, 17, 2)
            square = (pixels.reshape(8, 8) * 15.9).astype(np.uint8).repeat(2, 0).repeat(2, 1)
            place = canvas[row : row + 16, column : column + 16]
            np.maximum(place, square, out=place)
            Image.fromarray(canvas).save(folder / name / f"{number:03d}.png")
    return folder


class Desk:
    """A folder of photos, weights, and a storage."""

    def __init__(self, root: Path) -> None:
        self.photos = write_moved_digits(root / "photos")
        self._weights, self.storage = write_weights(root / "weights"), root / "runs"

    def options(self, **more: Any) -> FitOptions:
        return FitOptions(
            photos=self.photos, backbone=str(self._weights), storage=str(self.storage), **more
        )

    def fit(self, **more: Any) -> tuple[FitRecord, str]:
        """Fit, and return the record and what was shown."""
        out = io.StringIO()
        return fit_photos(self.options(**more), Lines(out)), out.getvalue()

    def versions(self) -> list[str]:
        return Registry(tracking_uri(None, self.storage)).versions("photos")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_job, "list_variants", few_variants)
    monkeypatch.setattr(training_plan, "EPOCHS", 30)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def balanced(right: Any, names: Any) -> float:
    return float(np.mean([right[names == name].mean() for name in np.unique(names)]))


def test_a_better_backbone_serves_and_is_compared_on_images_that_neither_trained_on(
    desk: Desk,
) -> None:
    record, shown = desk.fit(deeper=True)
    told = record.deeper
    assert told is not None
    assert told.serves
    assert told.gain.low > 0
    assert f"{told.gain.mean:+.3f}"[1:].lstrip("0") in shown
    assert record.backbone.endswith(", fine-tuned")
    assert "over the frozen backbone (ridge" in shown
    assert "over the base recipe" not in shown
    folder = desk.storage / MODELS / "photos" / EXPORTED
    mine, theirs = (load_outcomes(folder / name).images for name in (OUTCOMES_FILE, BASE_FILE))
    kept = mine[mine["part"] == "val"].set_index("digest")
    assert len(kept) == told.kept_out
    assert "six" in told.not_judged  # its twelve images all train
    same = theirs.set_index("digest").loc[kept.index]
    names = kept["label"].to_numpy()
    ours = balanced((kept["predicted"] == kept["label"]).to_numpy(), names)
    frozen = balanced((same["predicted"] == same["label"]).to_numpy(), names)
    assert told.gain.mean == pytest.approx(ours - frozen)
    model = FittedModel(record)
    assert set(model.class_names) == set(SIZES)
    assert model.predict(desk.photos / "zero" / "000.png").class_name in SIZES
    again, shown = desk.fit(deeper=True)
    assert "nothing changed" in shown
    assert again.key == record.key
    assert desk.versions() == ["1"]


def test_the_frozen_backbone_asked_for_afterwards_does_not_take_its_place(desk: Desk) -> None:
    if not (desk.storage / MODELS).is_dir():
        desk.fit(deeper=True)
    record, shown = desk.fit()
    assert record.deeper is None
    assert record.promotion is not None
    assert (record.promotion.promoted, record.promotion.champion) == (False, "1")
    assert "was refused, version 1 stays champion" in shown
    assert "--deeper" in shown  # offered, with the time it takes
    assert "also fine-tune the backbone (about" in shown


def test_a_backbone_that_is_no_better_leaves_the_champion_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    before, _ = desk.fit()
    monkeypatch.setattr(training_plan, "EPOCHS", 1)
    record, shown = desk.fit(deeper=True)
    assert record.deeper is not None
    assert not record.deeper.serves
    assert record.deeper.epochs == 1
    assert "the frozen backbone answers: fine-tuned for an epoch it is not better" in shown
    assert record.key == before.key
    assert record.backbone == before.backbone
    assert record.promotion is not None
    assert (record.promotion.version, record.promotion.promoted) == ("1", True)
    assert desk.versions() == ["1"]
    assert "nothing changed" in desk.fit(deeper=True)[1]
    assert "nothing changed" in desk.fit()[1]


def test_a_dry_run_says_what_a_fine_tuning_trains(desk: Desk, tmp_path: Path) -> None:
    out = io.StringIO()
    asked = desk.options(deeper=True).model_copy(update={"storage": str(tmp_path)})
    show_dry_run(asked, Lines(out))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    (training,) = [line for line in lines if "epochs of the last blocks" in line]
    assert training.startswith("30 epochs of the last blocks of the backbone, on ")
    assert any(line.startswith("at most ") and "more on this machine" in line for line in lines)


def test_without_a_pretrained_backbone_there_is_nothing_to_fine_tune(desk: Desk) -> None:
    asked = desk.options(deeper=True).model_copy(update={"backbone": "none"})
    for act in (fit_photos, show_dry_run):
        with pytest.raises(ConfigError, match="--deeper fine-tunes") as caught:
            act(asked, Lines(io.StringIO()))
        assert str(caught.value) == NOTHING_TO_TUNE


def fitted_to_noise(root: Path, number: int, *parts: str) -> Fitted:
    """Return what is known of a fit to some images of noise of each class in each part."""
    draw = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            (root / "pets" / part / name).mkdir(parents=True)
            for n in range(number):
                pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "pets" / part / name / f"{n}.png")
    found = look_at_folder(root / "pets", root / "model")
    settings = {
        "data.source": found.source,
        "data.root": str(root / "data"),
        "data.image_size": 8,
        "data.world": "service",
    }
    recipe = assign(in_service(Experiment(), {}), settings)
    fitted = Fitted(**dict.fromkeys(Fitted._fields))  # type: ignore[arg-type]
    return fitted._replace(
        trained=False, found=found, recipe=recipe, views=cached_views(recipe.data), key="k"
    )


class Compared(DeeperJob):
    """A fine-tuning that is over: it is known which images it and the frozen one name rightly."""

    frozen: Fitted
    wrong: tuple[int, int]  # images of each class that each of the two names wrongly
    chosen: Choice | None = None

    def train(self, recipe: Experiment, label: str) -> Trained:
        return Trained(None, self.frozen.views)  # type: ignore[arg-type]

    def _answered(self, *given: Any) -> Answered:
        kept = self.frozen.views.validation_known
        place = np.arange(len(kept.labels)) % (len(kept.labels) // 2)
        right = np.stack([place >= wrong for wrong in self.wrong])
        return Answered(right, kept.labels, np.arange(len(kept.labels)), np.full(2, 0.5))

    def _served(self, *given: Any) -> Fitted:
        self.chosen = given[-2]
        return self.frozen._replace(deeper=given[-1], trained=True)


@pytest.mark.parametrize(
    ("wrong", "gain", "serves"),
    [((6, 5), 1 / 30, False), ((15, 1), 14 / 30, True), ((1, 15), -14 / 30, False)],
)
def test_the_fine_tuned_one_serves_where_it_is_better_beyond_noise(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: tuple[int, int],
    gain: float,
    serves: bool,
) -> None:
    """By values, of 30 images of each of two classes: one image more is noise."""
    monkeypatch.setattr(network_job, "seconds_per_epoch", lambda *given: 3.0)
    frozen = fitted_to_noise(tmp_path, 30, "train", "val", "test")
    rehearsal = Rehearsal(
        [Turn("dog", 30, {0.05: 0.7}, 0.9, [], {})], [], (0.05,), 0.05, frozenset(), 0.1, ""
    )
    nothing = AnswerTable(torch.zeros(0, 0), torch.zeros(0))
    tried = Tried((), nothing, Choice(0, untried.NO_GAIN, untried.NO_GAIN, 0), SEARCH, 0)
    frozen = frozen._replace(tried=tried, rehearsal=rehearsal)
    images = frozen.found.images
    plan = TrainingPlan(images, ["dog"], images, 4, 0.05, lambda source, epochs: frozen.recipe)
    out = io.StringIO()
    options = FitOptions(photos=tmp_path / "pets", storage=str(tmp_path / "runs"))
    job = Compared(options, Lines(out), tmp_path / "model", began=0.0)
    job.frozen, job.wrong = frozen, wrong
    backbone = FrozenBackbone({"pretrain.backbone": "resnet18"}, "resnet18")
    found = job.run(frozen, plan, backbone)
    told = found.deeper
    assert told is not None
    assert told.gain.mean == pytest.approx(gain)
    assert (told.serves, found.trained, told.kept_out) == (serves, serves, 60)
    assert (told.new, told.frozen_noticed, told.not_judged) == (["dog"], 0.7, [])
    assert (told.epochs, told.frozen) == (4, "lda")
    tuned, number = trained_blocks(backbone)
    line = f"the last {tuned} of {number} blocks of the backbone, 4 epochs; at most 12 s here"
    assert out.getvalue() == f"deeper     {line}\n"
    if serves:  # what is told of it is what it gained, not what a choice between two gained
        assert job.chosen is not None
        assert job.chosen.gain == told.gain


@pytest.mark.parametrize("own", [False, True])
def test_the_frozen_answers_are_of_images_that_neither_trained_on(
    tmp_path: Path, own: bool
) -> None:
    """By values: out of fold those of the training images, else those of the own val/."""
    frozen = fitted_to_noise(tmp_path, 3, *(("train", "val", "test") if own else ("train", "test")))
    views = frozen.views
    view = views.validation_known if own else views.known_train
    assert len(view.labels) == 6
    served = torch.from_numpy(view.labels.copy())
    served[[1, 4]] = 1 - served[[1, 4]]
    table = AnswerTable(torch.stack([1 - served, served]).to(torch.int16), torch.zeros(2))
    choice = Choice(1, untried.NO_GAIN, untried.NO_GAIN, 1)
    frozen = frozen._replace(tried=Tried((), table, choice, SEARCH, 0))
    if own:  # the table may be that of the training images: then the model answers
        eye, zeros = torch.eye(2), torch.zeros(2)
        head = Classifier(
            Head.parse("linear"), 2, {"weight": eye, "bias": zeros}, zeros, zeros, zeros
        )
        features = Features(torch.zeros(6, 2), eye[served])
        told = {"classifier": head, "features": features}
        frozen = frozen._replace(outcome=RecipeResult(told, {}, [], 0.0))
    right = was_right(frozen, tmp_path / "model")
    part = tmp_path / "pets" / ("val" if own else "train")
    files = [part / name / f"{n}.png" for name in ("cat", "dog") for n in range(3)]
    assert right == {file: n not in (1, 4) for n, file in enumerate(files)}


def test_the_frozen_rate_is_that_of_the_fold_alone() -> None:
    turns = [
        Turn(name, 10, {0.01: 0.1, 0.05: rate}, 0.9, [], {})
        for name, rate in (("lynx", 0.25), ("tabby", 1.0), ("ocelot", 0.75))
    ]
    rehearsal = Rehearsal(turns, [], (0.01, 0.05), 0.05, frozenset(), 0.1, "")
    assert noticed_of(rehearsal, ["lynx", "ocelot"]) == 0.5
    # a class that did not play, or played in a fold, is no part of a figure beside the other one
    assert noticed_of(rehearsal, ["lynx", "ocelot", "serval"]) is None
    folds = [turn._replace(together=("serval",)) for turn in turns]
    assert noticed_of(rehearsal._replace(turns=folds), ["lynx", "ocelot"]) is None
    assert noticed_of(rehearsal, []) is None
