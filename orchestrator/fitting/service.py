"""From the chosen variant to the model that answers: its export, figures, verdict and report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from orchestrator.execution.execute import RecipeResult, export_model
from orchestrator.execution.store_executor import cached_views
from orchestrator.fitting.figures.fit_pages import write_findings
from orchestrator.fitting.figures.loose_clusters import keep_known
from orchestrator.fitting.figures.measuring import Judged, Known, figures, judged
from orchestrator.fitting.figures.photo_answers import PhotoAnswers, answers_to_photos
from orchestrator.fitting.figures.source_photos import photos_of_source
from orchestrator.fitting.fit_record import Deeper, Figures, FitRecord, Search
from orchestrator.fitting.photo_folder import TABLE, Found
from orchestrator.fitting.rehearsing import FILE
from orchestrator.fitting.trying.answer_table import AnswerTable, logits_out_of_fold
from orchestrator.fitting.trying.choosing import Choice
from orchestrator.options import EXPORTED
from orchestrator.registry.version_lookup import keep_parts
from trainables.features.predict import predict_logits
from trainables.inference.card import describe_model, read_card
from trainables.inference.expected_prior import expected_prior
from trainables.inference.outcome_tables import (
    answers_of_table,
    answers_out_of_fold,
    answers_to_kept_out,
    answers_to_test,
    outcomes_of,
    save,
)
from trainables.settings import flatten

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from trainables.artifacts import LabelledView
    from trainables.closed_form.statistics import Samples
    from trainables.data.shots.photo_set import Photo
    from trainables.data.views import Views
    from trainables.experiment import Experiment
    from trainables.inference.model import Predictions
    from trainables.inference.outcomes import Outcomes
    from trainables.methods.rebalancers import Rebalancer
    from trainables.rehearsal.outcome import Rehearsal


class Tried(NamedTuple):
    """All variants with their answers, the choice among them, and the base's number."""

    variants: Sequence[Rebalancer]
    table: AnswerTable
    choice: Choice
    search: Search
    base: int


class Fitted(NamedTuple):
    """A recipe that was chosen for photos, and what its stages gave.

    ``trained`` says that its network was trained on the photos: then images that were kept out
    stand in for answers out of fold. ``frozen`` is what a fine-tuned backbone is compared with,
    ``deeper`` that comparison, and ``deeper_seconds`` how long a fine-tuning would take.
    """

    found: Found
    views: Views
    recipe: Experiment
    tried: Tried
    rehearsal: Rehearsal
    outcome: RecipeResult
    base: RecipeResult
    data: Samples
    backbone: str
    key: str
    trained: bool = False
    frozen: Fitted | None = None
    deeper: Deeper | None = None
    deeper_seconds: float = 0.0

    @property
    def judged_view(self) -> LabelledView:
        """The images beside the test part that the model can be judged by."""
        return self.views.validation_known if self.trained else self.views.known_train

    @property
    def names(self) -> list[str]:
        """The classes in the order of the logits."""
        return [str(name) for name in self.views.summary["known_class_names"]]


def serve_fitted(fitted: Fitted, options: FitOptions, folder: Path, *, began: float) -> FitRecord:
    """Export, measure, register and judge the chosen model, and save the record and the report.

    Args:
        fitted: What was chosen.
        options: What was asked for.
        folder: Folder of the model.
        began: When the fit began, by ``time.monotonic``.
    """
    exported = _export(fitted, options.storage, folder)
    keep_parts(options.storage, options.model_name, exported)
    answers = _answers(fitted, base=False)
    photos = photos_of(fitted, folder)
    _tables(fitted, answers, folder, exported)
    keep_known(*_known_images(fitted), folder)
    card = read_card(exported)
    record = FitRecord(
        model=options.model_name,
        storage=options.storage,
        key=fitted.key,
        backbone=fitted.backbone,
        pretrained_on=card.pretrained_on,
        met_classes=[*card.met_classes],
        image_size=card.image_size,
        photos=fitted.found.photos,
        search=fitted.tried.search,
        figures=_figures(fitted, answers),
        expect=options.expect,
        asked=options.words,
        deeper=fitted.deeper,
        deeper_seconds=fitted.deeper_seconds,
        rehearsal=json.loads(fitted.rehearsal.to_json()),
        recipe=fitted.recipe.model_dump(mode="json"),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    from orchestrator.fitting.registering import Recorder  # imports MLflow, which takes seconds

    record.promotion = Recorder(options.storage).judge(
        record,
        gate_metrics(fitted.outcome.metrics),
        exported,
        flatten(fitted.recipe),
        fitted.recipe.data,
    )
    record.seconds = time.monotonic() - began
    record = write_findings(record, _seen(fitted, photos), fitted.found.images, folder)
    record.save(folder)
    return record


def _export(fitted: Fitted, storage: str, folder: Path) -> Path:
    """Write the model that answers into the folder of the fit."""
    target = folder / EXPORTED
    shutil.rmtree(target, ignore_errors=True)
    export_model(fitted.recipe.model_dump(mode="json"), {}, storage, target, "first")
    describe_model(target, cached_views(fitted.recipe.data), "first")
    (target / FILE).write_text(fitted.rehearsal.to_json(), encoding="utf-8")
    return target


class Answers(NamedTuple):
    """A model's answers to the test images, and out of fold to the training images.

    Of a trained network the latter are those to images that were kept out. ``sure`` says that the
    latter have a confidence: not where validation images calibrate.
    """

    test: Predictions
    train: Predictions
    sure: bool


def _answers(fitted: Fitted, *, base: bool) -> Answers:
    """Return what the model that answers, or the base, says of each image."""
    outcome = fitted.base if base else fitted.outcome
    found, scorer = outcome.artifacts, outcome.artifacts["scorer"]
    test = answers_to_test(found["evaluation"].arrays, scorer, fitted.names)
    if len(found["out_of_fold"].logits):
        train = answers_out_of_fold(found["out_of_fold"], scorer, fitted.names)
        return Answers(test, train, sure=True)
    if fitted.trained:
        return Answers(test, answers_to_kept_out(found, scorer, fitted.names), sure=True)
    predicted = _inside(fitted, base=base).argmax(1)
    return Answers(test, answers_of_table(predicted, fitted.names), sure=False)


def _inside(fitted: Fitted, *, base: bool) -> Tensor:
    """Return logits of the training images out of fold, also where validation images calibrate."""
    outcome = fitted.base if base else fitted.outcome
    found: Tensor = outcome.artifacts["out_of_fold"].logits
    if len(found):
        return found
    tried = fitted.tried
    method = tried.variants[tried.base if base else tried.choice.served]
    return logits_out_of_fold(method, fitted.base.artifacts["classifier"], fitted.data)


def _figures(fitted: Fitted, answers: Answers) -> Figures:
    """Return the figures of the model that answers."""
    images = {count.name: count.images for count in fitted.found.photos.classes}
    counts = torch.tensor([images.get(name, 0) for name in fitted.names])
    shares = expected_prior(fitted.recipe.score.prior, counts, fitted.names)
    known = Known(
        fitted.names,
        fitted.outcome.artifacts["classifier"].class_counts.tolist(),
        fitted.recipe.evaluate.many_above,
        fitted.recipe.evaluate.few_below,
        (counts / counts.sum() if shares is None else shares).tolist(),
    )
    train, test = fitted.judged_view, fitted.views.held_out_known
    inside = judged(answers.train, train.labels, train.groups)
    if not answers.sure:
        inside = inside._replace(unknown=None)
    return figures(
        judged(answers.test, test.labels, test.groups), inside, known, _validation(fitted)
    )


def answers_to_validation(fitted: Fitted) -> Tensor | None:
    """Return the class ``[N]`` that a model on a frozen backbone names for images of ``val/``."""
    if fitted.trained or not len(fitted.views.validation_known.labels):
        return None
    found = fitted.outcome.artifacts
    return predict_logits(found["classifier"], found["features"].validation_known).argmax(1)


def _validation(fitted: Fitted) -> Judged | None:
    """Return how right the answers to the folder's own validation images are."""
    view, predicted = fitted.views.validation_known, answers_to_validation(fitted)
    if predicted is None:
        return None
    return judged(answers_of_table(predicted, fitted.names), view.labels, view.groups)


def photos_of(fitted: Fitted, folder: Path) -> list[Photo]:
    """Return the photo of each image of a fit's source."""
    return photos_of_source(fitted.recipe.data, folder / TABLE, fitted.found.images.photos)


def _tables(fitted: Fitted, answers: Answers, folder: Path, exported: Path) -> None:
    """Write what the model, and the base, say of each image beside the exported model.

    The base of a fine-tuned backbone is what would be served on the frozen one.
    """
    aurocs = {turn.class_name: turn.auroc for turn in fitted.rehearsal.turns}
    save(_outcomes(fitted, answers, folder)._replace(rehearsal=aurocs), exported, base=False)
    rival = fitted.frozen or fitted
    theirs = _answers(rival, base=fitted.frozen is None)
    save(_outcomes(rival, theirs, folder), exported, base=True)


def _outcomes(fitted: Fitted, answers: Answers, folder: Path) -> Outcomes:
    """Return the table of what is said of each image."""
    recipe = fitted.recipe
    return outcomes_of(
        photos_of(fitted, folder),
        fitted.names,
        recipe.evaluate,
        test=(fitted.views.index_lists["held_out_known"], answers.test),
        train=(fitted.judged_view.indices.tolist(), answers.train),
        level=getattr(recipe.score.threshold, "level", None),
    )


def _known_images(fitted: Fitted) -> tuple[Tensor, Tensor]:
    """Return features and labels of known images that the backbone was not trained on."""
    features = fitted.outcome.artifacts["features"]
    own = features.validation_known if fitted.trained else features.known_train
    return own, torch.from_numpy(fitted.judged_view.labels)


def _seen(fitted: Fitted, photos: Sequence[Photo]) -> PhotoAnswers:
    """Return what the model says of each photo, as the page shows it."""
    found = fitted.outcome.artifacts
    files = [photo.file for photo in photos]
    if fitted.trained:
        logits = predict_logits(found["classifier"], found["features"].known_train)
    else:
        logits = _inside(fitted, base=False)
    return answers_to_photos(
        found, fitted.views, files, fitted.names, logits, kept_out=fitted.trained
    )


def gate_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of the first model under the names that gates read.

    Example:
        >>> gate_metrics({"evaluate/first/accuracy/few": 0.5, "evaluate/updated/accuracy/few": 0.1})
        {'test/accuracy/few': 0.5}
    """
    first, updated = "evaluate/first/", "evaluate/updated/"
    found = {k: value for k, value in metrics.items() if not k.startswith((first, updated))}
    own = {
        f"test/{k.removeprefix(first)}": value
        for k, value in metrics.items()
        if k.startswith(first)
    }
    return {**found, **own}
