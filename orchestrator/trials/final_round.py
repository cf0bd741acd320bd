"""Final round of a sweep, in which finalists run on new seeds and the winner is chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from orchestrator.choice.finalist_choice import asked_finalists, is_baseline
from orchestrator.choice.selection import Answers, select
from orchestrator.choice.serving import Served, choose_served
from orchestrator.execution.cluster import trial_resources
from orchestrator.execution.execute import export_model
from orchestrator.execution.store_executor import cached_views
from orchestrator.options import SweepOptions
from orchestrator.records import (
    FinalistRecord,
    Objective,
    SelectionRecord,
    SweepRecord,
    TrialRecord,
)
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.failures import Failures
from orchestrator.trials.finalists import (
    SeedRun,
    World,
    WorldRun,
    log_failed_seed,
    log_seeds,
    on_common_seeds,
    run_seed,
    summarize,
)
from orchestrator.trials.service_recipe import ends_in_service
from trainables.data.service_settings import SERVICE
from trainables.experiment import Experiment
from trainables.inference.card import describe_model, read_card
from trainables.settings import assign


@dataclass
class FinalRound:
    """Final round of one sweep.

    Args:
        options: Options of the sweep.
        base: Base recipe of the trials.
        record: Record of the sweep, to which finalists and selection are added.
        console: Console of the results.
        tracker: Tracker of the runs.
        folder: Folder of the sweep, below which models are exported.
    """

    options: SweepOptions
    base: Experiment
    record: SweepRecord
    console: Console
    tracker: Tracker
    folder: Path

    def choose(self, objectives: Sequence[Objective]) -> list[TrialRecord]:
        """Return the best trials by validation, the base recipe, and soups if they are wanted.

        The list is empty if no trial completed.
        """
        return asked_finalists(self.record, objectives, self.options)

    def start(
        self,
        chosen: Sequence[TrialRecord],
        storage: str,
        world: World = "validation",
        seeds: Sequence[int] | None = None,
    ) -> dict[str, dict[int, Any]]:
        """Start finalists on every seed as Ray tasks; return them by trial and seed."""
        # the seed of the search is left out, because the recipes were selected on this seed
        fresh = [self.base.seed + 1 + i for i in range(self.options.num_seeds)]
        each = trial_resources(self.options)
        task = ray.remote(num_cpus=each["cpu"], num_gpus=each["gpu"])(run_seed)
        more: dict[str, Any] = {
            "world": world,
            "gpus": self.options.gpus_per_trial,
            "workers": self.options.train_workers,
            "origin": os.getcwd(),
            "views_digest": self.record.data.get("views_digest", ""),
        }
        tree = self.base.model_dump(mode="json")

        def label(trial: TrialRecord, seed: int) -> tuple[str, str]:
            return self.record.name, f"finalist {trial.title}, seed {seed}, {world}"

        return {
            trial.trial_id: {
                seed: task.remote(
                    tree,
                    {**trial.params, **self._cut(seed, world)},
                    seed,
                    storage,
                    progress=label(trial, seed),
                    **more,
                )
                for seed in (fresh if seeds is None else seeds)
            }
            for trial in chosen
        }

    def _cut(self, seed: int, world: World) -> dict[str, Any]:
        """Return the change that cuts the data anew for a seed; the test keeps the recipe's cut."""
        if world == "test" or not self.options.data_seeds:
            return {}
        return {"data.seed": self.base.data.seed + seed - self.base.seed}

    def finish(
        self,
        chosen: Sequence[TrialRecord],
        pending: dict[str, dict[int, Any]],
        objectives: Sequence[Objective],
        storage: str,
    ) -> None:
        """Choose each finalist's model on validation, test it, choose the winner, save the record.

        A seed or finalist that fails is recorded; the others are compared on their common seeds.
        """
        failures = Failures(self.record, self._say)
        failures.forget("finalist")
        runs = self._test(chosen, self._validated(chosen, pending, failures), failures, storage)
        finalists: list[FinalistRecord] = []
        for trial in chosen:
            if trial.trial_id in runs:
                with failures.noted("finalist", trial.trial_id):
                    done = self._finalist(trial, runs[trial.trial_id], objectives, storage)
                    finalists.append(done)
        self.record.finalists, self.record.selection, self.record.service = [], None, None
        if self.options.promote:  # of other finalists: a start that follows judges these
            self.record.promotion = None
        if finalists:
            able = {f.trial_id: runs[f.trial_id] for f in finalists}
            selection = self._select(chosen, finalists, able, objectives)
            self.record.finalists, self.record.selection = finalists, selection
        self.record.save(self.folder)

    def _validated(
        self,
        chosen: Sequence[TrialRecord],
        pending: dict[str, dict[int, Any]],
        failures: Failures,
    ) -> dict[str, list[WorldRun]]:
        """Wait for the runs on validation images; return those on common seeds by trial."""
        return on_common_seeds({t.trial_id: self._runs(t, pending, failures) for t in chosen})

    def _test(
        self,
        chosen: Sequence[TrialRecord],
        validated: dict[str, list[WorldRun]],
        failures: Failures,
        storage: str,
    ) -> dict[str, list[SeedRun]]:
        """Run the validated finalists in the test world; return those on common seeds by trial."""
        able = [trial for trial in chosen if trial.trial_id in validated]
        if not able:
            return {}
        seeds = [run.seed for run in validated[able[0].trial_id]]
        pending = self.start(able, storage, "test", seeds)
        found: dict[str, list[SeedRun]] = {}
        for trial in able:
            tested = {run.seed: run for run in self._runs(trial, pending, failures)}
            found[trial.trial_id] = [
                SeedRun(run.seed, run, tested[run.seed])
                for run in validated[trial.trial_id]
                if run.seed in tested
            ]
        return on_common_seeds(found)

    def _runs(
        self, trial: TrialRecord, pending: dict[str, dict[int, Any]], failures: Failures
    ) -> list[WorldRun]:
        """Wait for a finalist's runs and return those that completed."""
        runs: list[WorldRun] = []
        for seed, task in pending[trial.trial_id].items():
            with failures.noted("finalist", trial.trial_id, seed):
                runs.append(ray.get(task))
        for failure in failures.of("finalist"):
            if failure.trial_id == trial.trial_id and failure.seed is not None:
                log_failed_seed(self.tracker, trial, failure.seed, self.base, failure.error)
        return runs

    def _finalist(
        self,
        trial: TrialRecord,
        runs: list[SeedRun],
        objectives: Sequence[Objective],
        storage: str,
    ) -> FinalistRecord:
        """Export a finalist's model, log its seeds and return its record."""
        folder = self.folder / "models" / trial.trial_id
        choice = choose_served(_answers(runs))
        self._export(trial, runs[0].seed, folder, storage, choice.served)
        names = log_seeds(self.tracker, trial, runs, choice.served, folder, self.base)
        arrays = str((folder / "evaluation").relative_to(self.folder))
        record = summarize(trial, runs, choice.served, arrays)
        record.run_ids, record.serving = names, choice.reason
        card = read_card(folder)
        record.pretrained_on, record.met_classes = card.pretrained_on, [*card.met_classes]
        shown = [
            f"{o.metric.removeprefix('evaluate/')} {record.metrics[o.metric].mean:.4f}"
            f" {record.metrics[o.metric].bracket()}"
            for o in objectives
            if o.metric in record.metrics
        ]
        # what is registered is another model: this recipe once more, with every class known
        apart = self.options.promote and ends_in_service(self.base)
        rehearsal = apart and self.base.data.world != SERVICE
        where = "test, as a rehearsal" if rehearsal else "test"
        self._say(
            f"finalist {trial.title} on {len(runs)} seed{'s' * (len(runs) > 1)}, {where}: "
            f"{'  '.join(shown)}"
        )
        model = "updated model" if choice.served == "updated" else "model before the update"
        self._say(f"  its {model} answers: {choice.reason}")
        return record

    def _export(
        self, trial: TrialRecord, seed: int, folder: Path, storage: str, served: Served
    ) -> None:
        """Write a finalist's model that answers, from stored stage results."""
        changes = {**trial.params, "seed": seed, "data.world": self.base.data.final_world}
        export_model(self.base.model_dump(mode="json"), changes, storage, folder, served)
        describe_model(folder, cached_views(assign(self.base, changes).data), served)

    def _select(
        self,
        chosen: Sequence[TrialRecord],
        finalists: Sequence[FinalistRecord],
        runs: dict[str, list[SeedRun]],
        objectives: Sequence[Objective],
    ) -> SelectionRecord:
        """Choose the winner, a finalist that is significantly better than the base, or the base."""
        base = next((trial for trial in self.record.trials if is_baseline(trial)), None)
        able = [t for t in chosen if t.trial_id in runs]
        same = next((t.trial_id for t in able if base and t.params == base.params), None)
        answers = {name: _answers(found) for name, found in runs.items()}
        choice = select(finalists, objectives, answers, base=same)
        self._say(f"selection: {choice.reason}")
        return choice

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _answers(runs: Sequence[SeedRun]) -> list[Answers]:
    """Return the answers of runs to validation images."""
    return [run.validation.answers for run in runs if run.validation.answers is not None]
