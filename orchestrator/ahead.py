"""Trainings of stage 2 that differ in their seed alone, several at once, ahead of their recipes.

What comes out lies in the stage store under the keys that each recipe asks for. Whoever runs the
recipes afterwards finds it there, and trains by itself what is not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from orchestrator.continuation import Course, course_of
from orchestrator.execute import StoreExecutor, cached_views, recording, view_digests
from orchestrator.store import Computed, StageStore
from trainables.context import Context
from trainables.experiment import Classify, Experiment
from trainables.fused import NotFusedError
from trainables.fused_classify import STAGE, Given, refusal, run_together
from trainables.loop import NonFiniteLossError
from trainables.pipeline import Step, plan, run, step_key

logger = logging.getLogger(__name__)

LEFT_OUT = "%s: one is left to its own run: %s"


class _Training(NamedTuple):
    """One recipe's stage 2: its step, what it gets, and where its states lie."""

    step: Step
    given: Given
    course: Course


def train_ahead(
    recipes: Sequence[Experiment], store: StageStore, device: torch.device
) -> list[str]:
    """Train stage 2 of equal recipes together and store each result; return the keys.

    What is stored, or is trained by another process at the moment, is left out, and so is what
    diverges. Where they can't train together nothing is stored, and a line of the log says why.

    An interrupted group goes on where it stopped, as do its members alone: each has checkpoints of
    its own, in the place where a training alone has them.

    Args:
        recipes: Equal but for their seeds.
        store: Receives the results, and those of the stages before.
        device: Where they train.
    """
    settings = recipes[0].classify
    try:
        reason = refusal(settings)
        if reason:
            raise NotFusedError(reason)
        trainings = _all_prepared(recipes, store, device)
        outputs = _step(recipes[0]).outputs
        stored = store.fill(
            STAGE,
            trainings,
            outputs,
            lambda folders: _computed(settings, trainings, folders, store),
        )
    except NotFusedError as error:
        logger.info("%s: each trains alone: %s", STAGE, error)
        return []
    for key in stored:
        trainings[key].course.end(store.place)
    return stored


def _step(recipe: Experiment) -> Step:
    """Return stage 2 of a recipe."""
    return next(step for step in plan(recipe) if step.stage == STAGE)


def _all_prepared(
    recipes: Sequence[Experiment], store: StageStore, device: torch.device
) -> dict[str, _Training]:
    """Return the trainings by the keys of their results."""
    found = {}
    for recipe in recipes:
        try:
            key, training = _prepared(recipe, store, device)
        except ArithmeticError as error:  # weights that are not finite; its own run will say so
            logger.info(LEFT_OUT, STAGE, error)
        else:
            found[key] = training
    return found


def _prepared(recipe: Experiment, store: StageStore, device: torch.device) -> tuple[str, _Training]:
    """Run what comes before stage 2 and return the key of its result."""
    views = cached_views(recipe.data)
    executor = StoreExecutor(store, view_digests(views))
    context = Context(device=device, seed=recipe.seed)
    names, step = [step.stage for step in plan(recipe)], _step(recipe)
    before = names[: names.index(STAGE)]
    artifacts = run(recipe, context, stages=before, views=views, executor=executor)
    inputs = {name: artifacts[name] for name in step.inputs}
    key = step_key(step, executor.digests, recipe.seed)
    course = course_of(step, executor.digests, recipe.seed)
    return key, _Training(step, Given(**inputs, context=context), course)


def _computed(
    settings: Classify,
    trainings: Mapping[str, _Training],
    folders: Mapping[str, Path],
    store: StageStore,
) -> dict[str, Computed]:
    """Train together and return what came out; a training that diverged will do so alone, too."""
    histories: dict[str, list[dict[str, float]]] = {key: [] for key in folders}
    given, continued = [], {}
    for key, folder in folders.items():
        own = trainings[key]
        continued[key] = own.course.resume(store.place, folder)
        report = recording(own.given.context.report, histories[key])
        context = replace(own.given.context, report=report, folder=folder)
        given.append(own.given._replace(context=context))
    results = run_together(settings, given)
    found = {}
    for (key, folder), result in zip(folders.items(), results, strict=True):
        if isinstance(result, NonFiniteLossError):
            logger.info(LEFT_OUT, STAGE, result)
            continue
        trainings[key].course.keep(store.place, folder)
        found[key] = Computed(result._asdict(), histories[key], continued[key])
    return found
