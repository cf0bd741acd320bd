"""A fit without pretrained weights: a small network is trained on the photos, from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from orchestrator.fitting.backbone import SMALL_NETWORK
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.progress_lines import duration
from orchestrator.fitting.service import Fitted, serve_fitted
from orchestrator.fitting.training.network_job import NetworkJob
from orchestrator.fitting.training.training_plan import plan_from_scratch
from orchestrator.fitting.training.untried import untried
from trainables.closed_form.statistics import samples
from trainables.settings import assign

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.photo_folder import Found
    from orchestrator.fitting.progress_lines import Lines


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
        self._job = NetworkJob(options, lines, folder, began=began)

    def run(self, found: Found, key: str) -> FitRecord:
        """Train, rehearse, and return the record, which is saved.

        Args:
            found: The photos.
            key: Digest of what was asked for and of the photos.

        Raises:
            ConfigError: There are too few photos to train and to set a threshold.
        """
        plan = plan_from_scratch(found.images, self.options)
        found, pace, recipe = self._job.prepare(plan, found, key)
        took = duration(pace.seconds)
        self.lines.say(
            "backbone",
            f"{SMALL_NETWORK}, {recipe.data.image_size} px, {pace.epochs} epochs; about {took} "
            "here",
        )
        views = self._job.train(recipe, "training").views
        rehearsed = self._job.rehearse(recipe, views, plan)
        recipe = assign(recipe, {"score.method": rehearsed.score})
        outcome = self._job.execute(recipe, "training")
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
