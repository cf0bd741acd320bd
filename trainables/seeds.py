"""One recipe on several seeds in this process, with stage 2 of all of them as one training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from trainables.context import Context
from trainables.data import Views
from trainables.experiment import Experiment
from trainables.fused import NotFusedError
from trainables.fused_classify import STAGE, Given, refusal, run_together
from trainables.loop import NonFiniteLossError
from trainables.pipeline import Step, plan, run, run_step

logger = logging.getLogger(__name__)
Ready = Mapping[str, Mapping[str, Any]]


def run_seeds(
    experiment: Experiment, contexts: Sequence[Context], *, views: Views, fuse: bool
) -> Iterator[dict[str, Any]]:
    """Yield the artifacts of a recipe on each seed, in order.

    Args:
        experiment: The recipe.
        contexts: One for each seed.
        views: The cut data.
        fuse: Train stage 2 of all at once where that is possible; the log says why it is not. It
            pays on a GPU.
    """
    ready: Sequence[Ready] = [{} for _ in contexts]
    if fuse and len(contexts) > 1:
        try:
            ready = _together(experiment, contexts, views)
        except NotFusedError as error:
            logger.info("%s: each trains alone: %s", STAGE, error)
    for context, own in zip(contexts, ready, strict=True):
        yield run(experiment, context, views=views, executor=partial(_run_step, own))


def _together(
    experiment: Experiment, contexts: Sequence[Context], views: Views
) -> list[dict[str, Mapping[str, Any]]]:
    """Return what the stages give, up to the training of all; one that diverges is left out.

    Raises:
        NotFusedError: They can't train together.
    """
    reason = refusal(experiment.classify)
    if reason:
        raise NotFusedError(reason)
    names = [step.stage for step in plan(experiment)]
    step = plan(experiment)[names.index(STAGE)]
    given, ready = [], []
    for context in contexts:
        own: dict[str, Mapping[str, Any]] = {}
        keep = partial(_keep, own)
        before = names[: names.index(STAGE)]
        artifacts = run(experiment, context, stages=before, views=views, executor=keep)
        given.append(Given(**{name: artifacts[name] for name in step.inputs}, context=context))
        ready.append(own)
    for own, result in zip(ready, run_together(experiment.classify, given), strict=True):
        if not isinstance(result, NonFiniteLossError):
            own[STAGE] = result._asdict()
    return ready


def _keep(
    kept: dict[str, Mapping[str, Any]], step: Step, inputs: Mapping[str, Any], context: Context
) -> Mapping[str, Any]:
    """Run a step and keep what it gives."""
    kept[step.stage] = run_step(step, inputs, context)
    return kept[step.stage]


def _run_step(
    ready: Ready, step: Step, inputs: Mapping[str, Any], context: Context
) -> Mapping[str, Any]:
    """Return what is there already, or run the step."""
    return ready[step.stage] if step.stage in ready else run_step(step, inputs, context)
