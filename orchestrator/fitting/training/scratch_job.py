"""A fit without pretrained weights: a small network is trained on the photos, from scratch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from orchestrator.execution.execute import RecipeResult, execute
from orchestrator.execution.store_executor import cached_views
from orchestrator.fitting.backbone import SMALL_NETWORK
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.progress_lines import duration
from orchestrator.fitting.rehearsing import Rehearsed
from orchestrator.fitting.service import Fitted, serve_fitted
from orchestrator.fitting.training.one_fold import Fold, rehearse_fold
from orchestrator.fitting.training.pace import Pace, pace_of
from orchestrator.fitting.training.scratch import recipe_from_scratch
from orchestrator.fitting.training.scratch_plan import (
    ScratchPlan,
    plan_from_scratch,
    seconds_per_epoch,
)
from orchestrator.fitting.training.untried import untried
from orchestrator.store.stage_store import StageStore
from trainables.closed_form.statistics import samples
from trainables.context import Context
from trainables.data.shots.photo_set import write_table
from trainables.settings import assign

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.photo_folder import Found
    from orchestrator.fitting.progress_lines import Lines
    from trainables.data.views import Views
    from trainables.experiment import Experiment

TABLE, PACE = "training-photos.csv", "pace.json"


class ScratchJob:
    """A fit that trains a small network on a folder of photos.

    Args:
        options: What was asked for.
        lines: Where progress is shown.
        folder: Folder of the model.
        began: When the fit began, by ``time.monotonic``.
    """

    def __init__(self, options: FitOptions, lines: Lines, folder: Path, *, began: float) -> None:
        self.options, self.lines, self.folder, self._began = options, lines, folder, began
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._store = StageStore(options.storage)

    def run(self, found: Found, key: str) -> FitRecord:
        """Train, rehearse, and return the record, which is saved.

        Args:
            found: The photos.
            key: Digest of what was asked for and of the photos.

        Raises:
            ConfigError: There are too few photos to train and to set a threshold.
        """
        plan = plan_from_scratch(found.images, self.options)
        pace = self._pace(plan, found, key)
        found = found._replace(images=plan.images, source=f"table:{self.folder / TABLE}")
        write_table(plan.images, self.folder / TABLE)
        size, took = plan.size, duration(pace.seconds)
        self.lines.say(
            "backbone", f"{SMALL_NETWORK}, {size} px, {pace.epochs} epochs; about {took} here"
        )
        recipe = recipe_from_scratch(self.options, found.source, size=size, epochs=pace.epochs)
        began = time.monotonic()
        outcome = self._execute(recipe, "training")
        kept = len(outcome.artifacts["validation_known"].labels)
        self.lines.say(
            "training",
            f"{len(outcome.artifacts['known_train'].labels):,} images in "
            f"{duration(time.monotonic() - began)}; {kept:,} others set temperature and threshold",
        )
        views = cached_views(recipe.data)
        rehearsed = self._rehearse(recipe, views, plan)
        recipe = assign(recipe, {"score.method": rehearsed.score})
        outcome = self._execute(recipe, "training")
        labels = torch.from_numpy(views.known_train.labels)
        fitted = Fitted(
            found,
            views,
            recipe,
            untried(outcome.artifacts, views.validation_known),
            rehearsed.rehearsal,
            outcome,
            outcome,
            samples(outcome.artifacts["features"].known_train, labels),
            SMALL_NETWORK,
            key,
            trained=True,
        )
        return serve_fitted(fitted, self.options, self.folder, began=self._began)

    def _pace(self, plan: ScratchPlan, found: Found, key: str) -> Pace:
        """Decide how many epochs there will be, by a few steps that are timed."""
        each = seconds_per_epoch(plan, self.options, found, self.device.type)
        limit = self.options.seconds
        if limit is not None:
            limit -= time.monotonic() - self._began
        return pace_of(key, self.folder / PACE, most=plan.epochs, per_epoch=each, limit=limit)

    def _rehearse(self, recipe: Experiment, views: Views, plan: ScratchPlan) -> Rehearsed:
        new = plan.new
        fold = Fold(new, recipe, views, self.options.false_alarm)

        def run(rehearsed: Experiment) -> RecipeResult:
            return self._execute(rehearsed, "rehearsal")

        found = rehearse_fold(fold, plan.fold, self.folder, run)
        told = found.rehearsal.cannot_tell or (
            f"{len(new)} of {len(plan.images.classes)} classes ({', '.join(new)}) were new to a "
            f"network that was trained without them; {found.score} tells them best"
        )
        self.lines.say("rehearsal", told)
        return found

    def _execute(self, recipe: Experiment, label: str) -> RecipeResult:
        """Run a recipe's stages; progress is that of the training, by epochs."""
        epochs = recipe.classify.training.epochs

        def report(metrics: Mapping[str, float], epoch: int) -> None:
            self.lines.step(label, f"{epochs} epochs", epoch, epochs)

        context = Context(device=self.device, seed=recipe.seed, report=report)
        return execute(recipe, self._store, context)
