"""The service run of a sweep on one's own images: the choice once more, with every class known.

Search and finalists are the laboratory: classes play new, validation images judge. What is
registered is the chosen recipe in world `service`, judged by its own answers to the test part; what
the finalist's rehearsal told of new classes is kept beside them, as ``rehearsal/...``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
from rich.console import Console

from orchestrator.choice.service_figures import (
    class_aurocs,
    own_metrics,
    rehearsal_metrics,
    uncalibrated,
)
from orchestrator.execution.cluster import trial_resources
from orchestrator.execution.execute import RecipeResult, execute, export_model
from orchestrator.execution.infrastructure import infrastructure_fault, one_line
from orchestrator.execution.store_executor import cached_views, views_digest
from orchestrator.options import SweepOptions
from orchestrator.records import (
    FinalistRecord,
    ServiceRecord,
    StageUse,
    SweepRecord,
    TrialRecord,
    winner,
)
from orchestrator.registry.comparison import gate_metrics
from orchestrator.registry.packaging import is_model
from orchestrator.registry.paired import false_alarms
from orchestrator.registry.version_lookup import keep_parts
from orchestrator.report.service_lines import service_lines
from orchestrator.store.stage_store import StageStore
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.finalists import recipe_of, run_seed, training_curve
from orchestrator.trials.service_recipe import ServiceRecipe, service_recipe
from trainables.artifacts import Evaluation, load_artifact
from trainables.context import Context
from trainables.data.views import Views
from trainables.experiment import Experiment
from trainables.inference.card import describe_model
from trainables.inference.outcome_tables import (
    Picture,
    answers_out_of_fold,
    answers_to_test,
    outcomes_of,
    pictures_of,
    save,
)
from trainables.inference.outcomes import Outcomes
from trainables.settings import flatten

NO_UPDATE = (
    "it answers as before an update: no image is without a label here, so there is none to learn "
    "from"
)


@dataclass
class ServiceRound:
    """The service run of one sweep.

    Args:
        options: Options of the sweep.
        base: Base recipe of the trials.
        record: Record of the sweep, to which the service run is added.
        console: Console of the results.
        tracker: Tracker of the runs.
        folder: Folder of the sweep, below which the model is exported.
    """

    options: SweepOptions
    base: Experiment
    record: SweepRecord
    console: Console
    tracker: Tracker
    folder: Path

    def run(self, storage: str) -> None:
        """Run the chosen recipe and the base with every class known, and export the former.

        What an earlier start of the sweep has done is not done again.

        Raises:
            ConfigError: Neither of them can serve these images.
        """
        done = self.record.service
        if done is not None and is_model(self.folder / done.folder):
            return
        best = winner(self.record)
        base = self._recipe({"seed": best.seeds[0]})
        trial_id, served = self._served(best, base, storage)
        if served.recipe != base.recipe:
            self._compute(base.recipe, "base", storage)
        rehearsed = self._rehearsal_of(trial_id)
        folder = self.folder / "models" / f"{trial_id}-service"
        shutil.rmtree(folder, ignore_errors=True)
        outcome = export_model(served.recipe.model_dump(mode="json"), {}, storage, folder, "first")
        views = cached_views(served.recipe.data)
        describe_model(folder, views, "first")
        if self.record.served_source:
            keep_parts(self.options.storage, self.options.model, folder)
        told = self._save_tables(folder, served.recipe, outcome, base.recipe, rehearsed, storage)
        updated = [NO_UPDATE] if rehearsed is not None and rehearsed.served == "updated" else []
        self.record.service = ServiceRecord(
            trial_id=trial_id,
            seed=served.recipe.seed,
            classes=len(views.summary["known_class_names"]),
            images=len(views.known_train.labels),
            calibrating=len(views.validation_known.labels),
            test_images=len(views.held_out_known.labels),
            notes=[*served.notes, *updated],
            metrics={**own_metrics(outcome.metrics), **rehearsal_metrics(rehearsed)},
            alarms=[*false_alarms(told).values()],
            uncalibrated=uncalibrated(told, _calibrated(views, outcome)),
            folder=str(folder.relative_to(self.folder)),
            run=f"{trial_id}-service",
        )
        self._track(served.recipe, outcome.uses)
        self.record.save(self.folder)
        for line in service_lines(self.record):
            self._say(line)

    def _recipe(self, changes: Mapping[str, Any]) -> ServiceRecipe:
        return service_recipe(self.base, changes, self.record.served_source)

    def _served(
        self, best: FinalistRecord, base: ServiceRecipe, storage: str
    ) -> tuple[str, ServiceRecipe]:
        """Return who is served: the winner or, where it can't, the base; its stages are stored."""
        baseline = next((t.trial_id for t in self.record.trials if t.number == 0), best.trial_id)
        own = self.record.selection is not None and self.record.selection.base == best.trial_id
        try:
            changes = {**best.params, "seed": base.recipe.seed}
            found = base if own else self._recipe(changes)
            self._compute(found.recipe, self.record.titles[best.trial_id], storage)
        except Exception as error:  # whatever is wrong with the winner, the base can serve
            if own or infrastructure_fault(error) is not None:
                raise
            title = self.record.titles[best.trial_id]
            note = f"{title} won but can't serve, so the base recipe is served: {one_line(error)}"
            self._compute(base.recipe, "the base recipe", storage)
            return baseline, base._replace(notes=[note, *base.notes])
        return best.trial_id, found

    def _compute(self, recipe: Experiment, title: str, storage: str) -> None:
        """Run a recipe's stages where trials run; what is stored already is not computed again."""
        each = trial_resources(self.options)
        task = ray.remote(num_cpus=each["cpu"], num_gpus=each["gpu"])(run_seed)
        ray.get(
            task.remote(
                recipe.model_dump(mode="json"),
                {},
                recipe.seed,
                storage,
                world="test",
                gpus=self.options.gpus_per_trial,
                progress=(self.record.name, f"service, {title}"),
                workers=self.options.train_workers,
                origin=os.getcwd(),
                views_digest=views_digest(cached_views(recipe.data)),
            )
        )

    def _save_tables(
        self,
        folder: Path,
        recipe: Experiment,
        outcome: RecipeResult,
        base: Experiment,
        rehearsed: FinalistRecord | None,
        storage: str,
    ) -> Outcomes:
        """Write what the model, and the base, say of each image, and return what the model says."""
        pictures = pictures_of(recipe.data, cached_views(recipe.data))
        own = table_of(recipe, outcome, pictures)
        save(own._replace(rehearsal=self._aurocs(rehearsed)), folder, base=False)
        same = recipe == base
        found = outcome if same else execute(base, StageStore(storage), Context(seed=base.seed))
        if not same:
            pictures = pictures_of(base.data, cached_views(base.data))
        of_base = self.record.selection.base if self.record.selection else None
        table = table_of(base, found, pictures)
        aurocs = self._aurocs(self._rehearsal_of(of_base))
        save(table._replace(rehearsal=aurocs), folder, base=True)
        return own

    def _rehearsal_of(self, trial_id: str | None) -> FinalistRecord | None:
        """Return the finalist of a recipe, if classes played new in this sweep."""
        if not self.base.data.num_novel:
            return None
        return next((f for f in self.record.finalists if f.trial_id == trial_id), None)

    def _aurocs(self, rehearsed: FinalistRecord | None) -> dict[str, float]:
        """Return the AUROC of each class that played new for a finalist, with its first seed."""
        if rehearsed is None:
            return {}
        trial = TrialRecord(
            trial_id=rehearsed.trial_id, number=0, state="COMPLETE", params=rehearsed.params
        )
        recipe = recipe_of(trial, rehearsed.seeds[0], self.base)
        names = cached_views(recipe.data).summary["novel_class_names"]
        folder = self.folder / "models" / rehearsed.trial_id / "evaluation"
        arrays = load_artifact(Evaluation, folder).arrays
        return class_aurocs(arrays, [str(name) for name in names])

    def _track(self, recipe: Experiment, uses: list[StageUse]) -> None:
        """Log the run of the model that answers."""
        service = self.record.service
        assert service is not None
        title = self.record.titles.get(service.trial_id, service.trial_id)
        number = next((t.number for t in self.record.trials if t.trial_id == service.trial_id), -1)
        self.tracker.start_trial(
            service.run,
            number,
            params=flatten(recipe),
            tags={
                "orchestrator.role": "service",
                "orchestrator.trial": service.trial_id,
                "mlflow.note.content": "\n\n".join(service_lines(self.record)),
            },
            experiment=recipe.model_dump(mode="json"),
            name=f"service, {title}",
        )
        self.tracker.log_history(service.run, training_curve(uses), once=True)
        entry = TrialRecord(
            trial_id=service.run,
            number=number,
            state="COMPLETE",
            params={},
            metrics=service.metrics,
            seconds=sum(use.seconds for use in uses if not use.reused),
            stages=uses,
        )
        self.tracker.finish_trial(entry, once=True)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Candidate(NamedTuple):
    """A model that a sweep registers: whose it is, its metrics, folder and run."""

    trial_id: str
    metrics: dict[str, float]
    folder: str
    run: str


def candidate_of(record: SweepRecord) -> Candidate:
    """Return the model that a sweep registers: of its service run, else of its winner."""
    done = record.service
    if done is not None:
        return Candidate(done.trial_id, done.metrics, done.folder, done.run)
    best = winner(record)
    folder = f"models/{best.trial_id}"
    return Candidate(best.trial_id, gate_metrics(best), folder, best.run_ids[0])


def table_of(recipe: Experiment, outcome: RecipeResult, pictures: list[Picture]) -> Outcomes:
    """Return a recipe's answers in world `service` to test images and, if it can, out of fold."""
    views: Views = cached_views(recipe.data)
    names = [str(name) for name in views.summary["known_class_names"]]
    scorer, held = outcome.artifacts["scorer"], outcome.artifacts["out_of_fold"]
    test = answers_to_test(outcome.artifacts["evaluation"].arrays, scorer, names)
    inside = None
    if len(held.logits):
        inside = views.index_lists["known_train"], answers_out_of_fold(held, scorer, names)
    return outcomes_of(
        pictures,
        names,
        recipe.evaluate,
        test=(views.index_lists["held_out_known"], test),
        train=inside,
        level=getattr(recipe.score.threshold, "level", None),
    )


def _calibrated(views: Views, outcome: RecipeResult) -> set[str] | None:
    """Return the classes of the images that calibrate; ``None``: all training images do."""
    if len(outcome.artifacts["out_of_fold"].logits):
        return None
    names = views.summary["known_class_names"]
    return {str(names[label]) for label in views.validation_known.labels.tolist()}
