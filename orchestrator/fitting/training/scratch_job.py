"""A fit without pretrained weights: a small network is trained on the photos, from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from orchestrator.fitting.backbone import SMALL_NETWORK
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.progress_lines import duration
from orchestrator.fitting.service import Fitted, serve_fitted
from orchestrator.fitting.training.network_job import NetworkJob
from orchestrator.fitting.training.pace import in_epochs
from orchestrator.fitting.training.training_plan import plan_from_scratch
from orchestrator.fitting.training.untried import untried
from trainables.closed_form.statistics import samples
from trainables.settings import assign

if TYPE_CHECKING:
    from orchestrator.fitting.photo_folder import Found


class ScratchJob(NetworkJob):
    """A fit that trains a small network on a folder of photos; see `NetworkJob`."""

    def run(self, found: Found, key: str) -> FitRecord:
        """Train, rehearse, and return the record, which is saved.

        Args:
            found: The photos.
            key: Digest of what was asked for and of the photos.

        Raises:
            ConfigError: There are too few photos to train and to set a threshold.
        """
        plan = plan_from_scratch(found.images, self.options)
        found, pace, recipe = self.prepare(plan, found, key)
        took = duration(pace.seconds)
        self.lines.say(
            "backbone",
            f"{SMALL_NETWORK}, {recipe.data.image_size} px, {in_epochs(pace.epochs)}; about {took} "
            "here",
        )
        views = self.train(recipe, "training").views
        rehearsed = self.rehearse(recipe, views, plan)
        recipe = assign(recipe, {"score.method": rehearsed.score.dump()})
        outcome = self.execute(recipe, "training")
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
