"""A fit that goes deeper: the backbone is fine-tuned too, and serves if that is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from orchestrator.execution.execute import MODELS, RecipeResult
from orchestrator.fitting.backbone import FINE_TUNED
from orchestrator.fitting.figures.source_photos import photos_of_source
from orchestrator.fitting.fit_record import Deeper, Search
from orchestrator.fitting.progress_lines import duration
from orchestrator.fitting.service import Fitted, Tried, answers_to_validation, photos_of
from orchestrator.fitting.training.deeper import WORDS, trained_blocks
from orchestrator.fitting.training.network_job import TABLE, NetworkJob, Trained
from orchestrator.fitting.training.pace import in_epochs
from orchestrator.fitting.trying.answer_table import AnswerTable
from orchestrator.fitting.trying.choosing import Answered, Choice, choose, paired_gain
from trainables.closed_form.statistics import samples
from trainables.inference.expected_prior import expected_prior
from trainables.inference.reference import reference_of
from trainables.settings import assign

if TYPE_CHECKING:
    from orchestrator.fitting.backbone import FrozenBackbone
    from orchestrator.fitting.photo_folder import Found
    from orchestrator.fitting.training.training_plan import TrainingPlan
    from trainables.artifacts import LabelledView
    from trainables.experiment import Experiment
    from trainables.rehearsal.outcome import Rehearsal

FROZEN = 0  # of the two that are compared


class DeeperJob(NetworkJob):
    """Fine-tunes the backbone of a fit, and compares it with the frozen one; see `NetworkJob`."""

    def run(self, frozen: Fitted, plan: TrainingPlan, backbone: FrozenBackbone) -> Fitted:
        """Return what serves: the fine-tuned backbone if it is better beyond noise.

        They are compared, paired, on the images that are kept out of the fine-tuning; of those the
        frozen backbone's classifier has its answers out of fold, or to the own validation part.

        Args:
            frozen: What the fit with the frozen backbone chose.
            plan: What will be trained.
            backbone: Where the training starts.
        """
        found, pace, recipe = self.prepare(plan, frozen.found, frozen.key)
        took = duration(pace.seconds)
        tuned, number = trained_blocks(backbone)
        self.lines.say(
            "deeper",
            f"the last {tuned} of {number} blocks of the backbone, {in_epochs(pace.epochs)}; at "
            f"most {took} here",
        )
        trained = self.train(recipe, "deeper")
        kept = trained.views.validation_known
        answered = self._answered(frozen, found, recipe, trained)
        metric = self.options.metric
        gain = paired_gain(answered, base=FROZEN, metric=metric)
        names, present = frozen.names, set(kept.labels.tolist())
        told = Deeper(
            epochs=pace.epochs,
            kept_out=len(kept.labels),
            gain=gain,
            serves=gain.low > 0,
            frozen=frozen.tried.search.served,
            new=plan.new,
            frozen_noticed=noticed_of(frozen.rehearsal, plan.new),
            not_judged=[n for label, n in enumerate(names) if label not in present],
        )
        if not told.serves:
            return frozen._replace(deeper=told)
        choice = choose(answered, base=FROZEN, metric=metric)
        honest = choice._replace(best=0, served=0, gain=gain)
        return self._served(frozen, found, plan, recipe, trained, honest, told)

    def _answered(
        self, frozen: Fitted, found: Found, recipe: Experiment, trained: Trained
    ) -> Answered:
        """Return which images that were kept out the frozen and the fine-tuned one name rightly."""
        kept = trained.views.validation_known
        photos = photos_of_source(recipe.data, self.folder / TABLE, found.images.photos)
        files = [photos[place].file for place in kept.indices]
        before = was_right(frozen, self.folder)
        right = np.stack(
            [
                [before[file] for file in files],
                answers_of(trained.outcome).numpy() == kept.labels,
            ]
        )
        counts = frozen.base.artifacts["classifier"].class_counts
        prior = expected_prior(self.options.prior, counts, frozen.names)
        assert prior is not None
        return Answered(right, kept.labels, groups_of(kept), prior.numpy())

    def _served(
        self,
        frozen: Fitted,
        found: Found,
        plan: TrainingPlan,
        recipe: Experiment,
        trained: Trained,
        choice: Choice,
        told: Deeper,
    ) -> Fitted:
        """Rehearse the fine-tuned backbone, and return it as what serves."""
        views = trained.views
        rehearsed = self.rehearse(recipe, views, plan, met=frozen.rehearsal.met)
        recipe = assign(recipe, {"score.method": rehearsed.score.dump()})
        outcome = self.execute(recipe, "deeper")
        before = frozen.tried.search
        search = Search(
            variants=before.variants + 1,
            metric=self.options.metric,
            best=WORDS,
            honest=choice.honest,
            base=before.served,
            gain=choice.gain,
            served=WORDS,
            serves_base=False,
            classes_not_judged=told.not_judged,
            kept_out=told.kept_out,
            seconds=before.seconds,
        )
        predicted = answers_of(outcome)[None].to(torch.int16)
        table = AnswerTable(predicted, torch.zeros(1, dtype=torch.float64))
        labels = torch.from_numpy(views.known_train.labels)
        return Fitted(
            found,
            views,
            recipe,
            Tried((), table, choice, search, 0),
            rehearsed.rehearsal,
            outcome,
            outcome,
            samples(outcome.artifacts["features"].known_train, labels),
            f"{frozen.backbone}, fine-tuned",
            f"{frozen.key}{FINE_TUNED}",
            trained=True,
            frozen=frozen,
            deeper=told,
        )


def answers_of(outcome: RecipeResult) -> torch.Tensor:
    """Return the class ``[N]`` that a trained network names for each image that was kept out."""
    reference = reference_of(outcome.artifacts, MODELS["first"])
    assert reference is not None  # images are kept out
    return reference.predicted


def was_right(frozen: Fitted, folder: Path) -> dict[Path, bool]:
    """Return whether the chosen head on the frozen backbone names each image rightly.

    Out of fold, or on the folder's own validation images where it has some.
    """
    view, predicted = frozen.views.validation_known, answers_to_validation(frozen)
    if predicted is None:
        view = frozen.views.known_train
        predicted = frozen.tried.table.predicted[frozen.tried.choice.served]
    photos = photos_of(frozen, folder)
    right = predicted.numpy() == view.labels
    files = [photos[place].file for place in view.indices]
    return dict(zip(files, right.tolist(), strict=True))


def noticed_of(rehearsal: Rehearsal, new: list[str]) -> float | None:
    """Return the mean share of images that were noticed of some classes, each new alone.

    Returns:
        ``None`` where one of them did not play alone: it would stand beside another figure.
    """
    alone = {turn.class_name: turn for turn in rehearsal.turns if not turn.together}
    if not new or not set(new) <= set(alone):
        return None
    return float(np.mean([alone[name].noticed[rehearsal.served] for name in new]))


def groups_of(view: LabelledView) -> np.ndarray:
    """Return the group of each image ``[N]``; without groups each image is one."""
    return np.arange(len(view.labels)) if view.groups is None else view.groups
