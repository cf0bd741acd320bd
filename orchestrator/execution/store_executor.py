"""Executor of a plan's steps that takes stage results from the store or computes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from orchestrator.execution.infrastructure import InfrastructureError
from orchestrator.execution.stored_precision import stored_choice
from orchestrator.execution.training_states import states_of
from orchestrator.records import StageUse
from orchestrator.store.manifest import Computed
from orchestrator.store.stage_store import StageStore, Stored
from trainables.context import Context, Report
from trainables.data.data_settings import Data
from trainables.data.views import Views, build_views
from trainables.keys import identity
from trainables.pipeline import Step, chosen_precision, run_step, step_key, with_precision
from trainables.settings import canonical_json
from trainables.threads import computed_with

# Runs a step in a worker group; returns the result and the number of reports sent on.
RunInGroup = Callable[[Step, str, Report], tuple[Stored, int]]


@dataclass
class StoreExecutor:
    """Runs the steps of one recipe through a store and lists the results that were used.

    Args:
        store: Store of the results.
        digests: Content digest of each view; running a step adds the digests of its results.
        resend_reports: Send the stored reports of a reused step again, because schedulers compare
            trials by epoch.
        group: Runs the training steps in worker groups; ``None`` runs them in this process.
        begun: Called with the name of each stage when it begins.
    """

    store: StageStore
    digests: dict[str, str]
    resend_reports: bool = False
    group: RunInGroup | None = None
    begun: Callable[[str], None] | None = None
    uses: list[StageUse] = field(default_factory=list)

    def __call__(self, step: Step, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Return the step's artifacts, loaded from the store or computed and stored now."""
        if self.begun is not None:
            self.begun(step.stage)
        written = step
        step = with_precision(step, inputs, context, partial(stored_choice, self.store))
        key = step_key(step, self.digests, context.seed)
        if self.group is not None and trains(step):
            stored, passed_on = self.group(step, key, context.report)
        else:
            stored, passed_on = self._here(step, key, inputs, context)
        if not stored.reused:
            states_of(step, self.digests, context.seed).end(self.store.backend)
        for row in stored.history[passed_on:] if self.resend_reports else ():
            context.report({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))
        for name, artifact in stored.artifacts.items():
            self.digests[name] = identity(artifact, stored.digests[name])
        self.uses.append(
            StageUse(
                stage=step.stage,
                key=key,
                reused=stored.reused,
                seconds=stored.seconds,
                continued=stored.continued,
                history=stored.history,
                chosen={} if step is written else chosen_precision(step),
            )
        )
        return dict(stored.artifacts)

    def _here(
        self, step: Step, key: str, inputs: Mapping[str, Any], context: Context
    ) -> tuple[Stored, int]:
        """Return a step's result, computed here if not stored, and its number of new reports."""
        history: list[dict[str, float]] = []

        def compute(folder: Path) -> Computed:
            report = _recording(context.report, history)
            states = states_of(step, self.digests, context.seed)
            continued = states.resume(self.store.backend, folder)
            own = replace(context, report=report, folder=folder, features=self.store.features)
            result = run_step(step, inputs, own)
            states.keep(self.store.backend, folder)
            return Computed(result, history, continued, computed_by(step, context))

        stored = self.store.get_or_compute(step.stage, key, step.outputs, compute)
        return stored, 0 if stored.reused else len(stored.history)


def _recording(report: Report, history: list[dict[str, float]]) -> Report:
    """Return a report function that also appends to ``history``."""

    def both(metrics: Mapping[str, float], step: int) -> None:
        history.append({"epoch": float(step), **metrics})
        report(metrics, step)

    return both


def computed_by(step: Step, context: Context) -> dict[str, str]:
    """Return what a step's result depends on beside its key, and the precision of its training."""
    return computed_with(context.device) | chosen_precision(step)


def trains(step: Step) -> bool:
    """Return True if a step trains a backbone, which several workers speed up.

    Example:
        >>> from trainables.experiment import Experiment
        >>> from trainables.pipeline import plan
        >>> [s.stage for s in plan(Experiment()) if trains(s)]
        ['classify']
    """
    settings: Any = step.settings
    if step.stage == "pretrain":
        return bool(settings.method.trains) and settings.training.epochs > 0
    if step.stage == "update":
        return bool(settings.mode == "full") and settings.training.epochs > 0
    return step.stage == "classify" and settings.training.epochs > 0


def view_digests(views: Views) -> dict[str, str]:
    """Return the content digest of each view by name."""
    return {name: view.digest for name, view in views._asdict().items() if hasattr(view, "digest")}


def views_digest(views: Views) -> str:
    """Return one digest of the content of all views (SHA-256, hex)."""
    return hashlib.sha256(canonical_json(view_digests(views)).encode()).hexdigest()


def check_views(data: Data, digest: str) -> None:
    """Return if the views of a data setting are those that a sweep began with.

    Args:
        data: The data settings.
        digest: Of the sweep's views; see `views_digest`.

    Raises:
        InfrastructureError: The images changed while the sweep ran.
    """
    if views_digest(cached_views(data)) != digest:
        raise InfrastructureError(f"the images of {data.source} changed while the sweep ran")


def cached_views(data: Data) -> Views:
    """Return the views of a data setting, cached per process for the trials of one actor."""
    return _cached_views(data.model_dump_json())


def forget_views() -> None:
    """Forget cached views: a table may have other rows now than when this process read it."""
    _cached_views.cache_clear()


@lru_cache(maxsize=4)
def _cached_views(document: str) -> Views:
    return build_views(Data.model_validate_json(document))
