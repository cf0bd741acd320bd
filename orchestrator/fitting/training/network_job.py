"""Training of a network on photos, and its rehearsal; what is stored is not done again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from orchestrator.execution.execute import RecipeResult, execute
from orchestrator.execution.store_executor import cached_views
from orchestrator.fitting.progress_lines import duration
from orchestrator.fitting.rehearsing import Rehearsed
from orchestrator.fitting.training.one_fold import Fold, rehearse_fold
from orchestrator.fitting.training.pace import Pace, in_epochs, pace_of
from orchestrator.fitting.training.training_plan import TrainingPlan, seconds_per_epoch
from orchestrator.store.stage_store import StageStore
from trainables.context import Context
from trainables.data.shots.photo_set import write_table

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.photo_folder import Found
    from orchestrator.fitting.progress_lines import Lines
    from trainables.data.views import Views
    from trainables.experiment import Experiment

TABLE, PACE = "training-photos.csv", "pace.json"


class Prepared(NamedTuple):
    """A training that was planned: the photos with those that are kept out, its pace and recipe."""

    found: Found
    pace: Pace
    recipe: Experiment


class Trained(NamedTuple):
    """A network that was trained: what its stages gave, and the views of its recipe."""

    outcome: RecipeResult
    views: Views


class NetworkJob:
    """Trains a network on a folder of photos.

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

    def prepare(self, plan: TrainingPlan, found: Found, key: str) -> Prepared:
        """Write down which photos are kept out, and decide how many epochs there will be.

        Args:
            plan: What will be trained.
            found: The photos.
            key: Digest of what was asked for and of the photos.
        """
        each = seconds_per_epoch(plan, found.source, self.device.type)
        limit = self.options.seconds
        if limit is not None:
            limit -= time.monotonic() - self._began
        pace = pace_of(key, self.folder / PACE, most=plan.epochs, per_epoch=each, limit=limit)
        table = self.folder / TABLE
        found = found._replace(images=plan.images, source=f"table:{table}")
        write_table(plan.images, table)
        return Prepared(found, pace, plan.recipe(found.source, pace.epochs))

    def train(self, recipe: Experiment, label: str) -> Trained:
        """Train the network, and say how many images trained and how many were kept out."""
        began = time.monotonic()
        outcome = self.execute(recipe, label)
        kept = len(outcome.artifacts["validation_known"].labels)
        self.lines.say(
            label,
            f"{len(outcome.artifacts['known_train'].labels):,} images in "
            f"{duration(time.monotonic() - began)}; {kept:,} others set temperature and threshold",
        )
        return Trained(outcome, cached_views(recipe.data))

    def rehearse(
        self,
        recipe: Experiment,
        views: Views,
        plan: TrainingPlan,
        *,
        met: frozenset[str] = frozenset(),
    ) -> Rehearsed:
        """Train the network without a fold of classes, and see whether it notices them.

        Args:
            recipe: The recipe that was trained.
            views: Its views.
            plan: What was planned.
            met: Classes that the backbone was trained on before.
        """
        fold = Fold(plan.new, recipe, views, plan.level, met)

        def run(rehearsed: Experiment) -> RecipeResult:
            return self.execute(rehearsed, "rehearsal")

        found = rehearse_fold(fold, plan.fold, self.folder, run)
        told = found.rehearsal.cannot_tell or (
            f"{len(plan.new)} of {len(plan.images.classes)} classes ({', '.join(plan.new)}) were "
            f"new to a network that was trained without them; {found.score.name} tells them best"
        )
        self.lines.say("rehearsal", told)
        return found

    def execute(self, recipe: Experiment, label: str) -> RecipeResult:
        """Run a recipe's stages; progress is that of the training, by epochs."""
        epochs = recipe.classify.training.epochs

        def report(metrics: Mapping[str, float], epoch: int) -> None:
            self.lines.step(label, in_epochs(epochs), epoch, epochs)

        context = Context(device=self.device, seed=recipe.seed, report=report)
        return execute(recipe, self._store, context)
