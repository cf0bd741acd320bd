"""From the chosen variant to the model that answers: its export, figures, verdict and report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from orchestrator.execution.execute import RecipeResult, export_model
from orchestrator.execution.store_executor import cached_views
from orchestrator.fitting.figures.measuring import Known, figures, judged
from orchestrator.fitting.figures.outcome_tables import (
    answers_of_table,
    answers_out_of_fold,
    answers_to_test,
    outcomes_of,
    photos_of_source,
    save,
)
from orchestrator.fitting.fit_record import Figures, FitRecord, Search
from orchestrator.fitting.photo_folder import TABLE, Found
from orchestrator.fitting.rehearsing import FILE
from orchestrator.fitting.screen import last_screen
from orchestrator.fitting.trying.answer_table import AnswerTable
from orchestrator.fitting.trying.choosing import Choice
from orchestrator.report.fit_page import ClassRow, write_fit_page
from trainables.inference.card import describe_model, read_card
from trainables.inference.expected_prior import expected_prior
from trainables.settings import flatten

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from trainables.data.views import Views
    from trainables.experiment import Experiment
    from trainables.inference.model import Predictions
    from trainables.rehearsal.outcome import Rehearsal

EXPORTED, REPORT = "served", "report.html"


class Tried(NamedTuple):
    """All variants with their answers, the choice among them, and the base's number."""

    table: AnswerTable
    choice: Choice
    search: Search
    base: int


class Fitted(NamedTuple):
    """A recipe that was chosen for photos, and what its stages gave."""

    found: Found
    views: Views
    recipe: Experiment
    tried: Tried
    rehearsal: Rehearsal
    outcome: RecipeResult
    base: RecipeResult
    backbone: str
    key: str

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
    answers = _answers(fitted, base=False)
    _tables(fitted, answers, folder, exported)
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
    record.report = _shown(folder / REPORT)
    _write_page(record, folder / REPORT)
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

    ``sure`` says that the latter have a confidence: not where validation images calibrate.
    """

    test: Predictions
    train: Predictions
    sure: bool


def _answers(fitted: Fitted, *, base: bool) -> Answers:
    """Return what the model that answers, or the base, says of each image."""
    outcome, tried = (fitted.base if base else fitted.outcome), fitted.tried
    found, scorer = outcome.artifacts, outcome.artifacts["scorer"]
    test = answers_to_test(found["evaluation"].arrays, scorer, fitted.names)
    if len(found["out_of_fold"].logits):
        train = answers_out_of_fold(found["out_of_fold"], scorer, fitted.names)
        return Answers(test, train, sure=True)
    number = tried.base if base else tried.choice.served
    return Answers(test, answers_of_table(tried.table.predicted[number], fitted.names), sure=False)


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
    train, test = fitted.views.known_train, fitted.views.held_out_known
    inside = judged(answers.train, train.labels, train.groups)
    if not answers.sure:
        inside = inside._replace(unknown=None)
    return figures(judged(answers.test, test.labels, test.groups), inside, known)


def _tables(fitted: Fitted, answers: Answers, folder: Path, exported: Path) -> None:
    """Write what the model, and the base, say of each image beside the exported model."""
    recipe, views = fitted.recipe, fitted.views
    photos = photos_of_source(recipe.data, folder / TABLE, fitted.found.images.photos)
    for base, found in ((False, answers), (True, _answers(fitted, base=True))):
        table = outcomes_of(
            photos,
            fitted.names,
            recipe.evaluate,
            test=(views.index_lists["held_out_known"], found.test),
            train=(views.known_train.indices.tolist(), found.train),
            level=getattr(recipe.score.threshold, "level", None),
        )
        if not base:
            aurocs = {turn.class_name: turn.auroc for turn in fitted.rehearsal.turns}
            table = table._replace(rehearsal=aurocs)
        save(table, exported, base=base)


def _write_page(record: FitRecord, target: Path) -> None:
    """Write the page, which opens with the last screen."""
    found = {count.name: count for count in record.photos.classes}
    promotion = record.promotion
    version = f" version {promotion.version}" if promotion and promotion.version else ""
    write_fit_page(
        target,
        title=f"{record.model}{version}",
        folder=record.photos.folder,
        backbone=record.backbone,
        started=record.started,
        screen=last_screen(record, None)[1:],
        classes=[
            ClassRow(
                name,
                found[name].train,
                found[name].test,
                rate,
                name in record.figures.out_of_fold_classes,
            )
            for name, rate in record.figures.by_class.items()
        ],
        gates=promotion.gates if promotion else [],
        left_out=record.photos.left_out,
        recipe=record.recipe,
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


def _shown(path: Path) -> str:
    """Return a path from the working folder, where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
