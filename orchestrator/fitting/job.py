"""One fit: features, search, choice, judgement; what is stored already is not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.execution.execute import RecipeResult, execute
from orchestrator.execution.store_executor import cached_views, forget_views
from orchestrator.fitting.backbone import (
    WITHOUT_WEIGHTS,
    FrozenBackbone,
    backbone_at_hand,
)
from orchestrator.fitting.fit_record import OUT_OF_FOLD, OWN_VALIDATION, FitRecord, Search
from orchestrator.fitting.recipe import recipe_of_photos
from orchestrator.fitting.rehearsing import Rehearsed, rehearse_scores
from orchestrator.fitting.screen import features_line, search_line
from orchestrator.fitting.service import Fitted, Tried, serve_fitted
from orchestrator.fitting.threshold_images import require_threshold
from orchestrator.fitting.training.deeper import NOTHING_TO_TUNE
from orchestrator.fitting.training.deeper_job import DeeperJob
from orchestrator.fitting.training.scratch_job import ScratchJob
from orchestrator.fitting.training.training_plan import plan_deeper, seconds_per_epoch
from orchestrator.fitting.trying.answer_table import NO_ANSWER, AnswerTable, answer_all
from orchestrator.fitting.trying.choosing import Answered, choose
from orchestrator.fitting.trying.variants import BASE, in_words, is_base, list_variants
from orchestrator.store.stage_store import StageStore
from trainables.closed_form.groups import judging
from trainables.closed_form.statistics import Samples, samples
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.inference.expected_prior import expected_prior
from trainables.settings import assign
from trainables.weights.label_sets import met_classes

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.photo_folder import Found
    from orchestrator.fitting.progress_lines import Lines
    from trainables.data.views import Views
    from trainables.experiment import Experiment
    from trainables.methods.rebalancers import Rebalancer


PROBED = 8  # images of a step that tells how long a fine-tuning would take


class FitJob:
    """A fit of one folder.

    Args:
        options: What was asked for.
        lines: Where progress is shown.
        folder: Folder of the model.
    """

    def __init__(self, options: FitOptions, lines: Lines, folder: Path) -> None:
        self.options, self.lines, self.folder = options, lines, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.variants = list_variants()
        self._base = next(n for n, method in enumerate(self.variants) if is_base(method))
        self._began = time.monotonic()

    def run(self, found: Found, key: str) -> FitRecord:
        """Fit, and return the record, which is saved.

        Args:
            found: The photos.
            key: Digest of what was asked for and of the photos.

        Raises:
            ConfigError: The photos or the backbone can't be used.
        """
        forget_views()  # an earlier fit in this process may have seen fewer photos
        with _said_by_the_screen(usual=not self.options.backbone):
            return self._run(found, key)

    def _run(self, found: Found, key: str) -> FitRecord:
        backbone = self._backbone()
        if backbone is None:
            if self.options.deeper:
                raise ConfigError(NOTHING_TO_TUNE)
            scratch = ScratchJob(self.options, self.lines, self.folder, began=self._began)
            return scratch.run(found, key if self.options.backbone else f"{key}{WITHOUT_WEIGHTS}")
        require_threshold(found.images, self.options)
        plan = plan_deeper(found.images, self.options, backbone) if self.options.deeper else None
        recipe = recipe_of_photos(self.options, backbone, found.source, BASE)
        size = recipe.data.image_size
        text = f"{backbone.title}, {size} px, frozen"
        self.lines.say("backbone", f"{text}; {backbone.notice}" if backbone.notice else text)
        store = StageStore(self.options.storage)
        began = time.monotonic()
        base = self._execute(recipe, store, found)
        spent = time.monotonic() - began
        told = features_line(found.photos.images, store.features.written, spent)
        self.lines.say("features", told)
        views = cached_views(recipe.data)
        data = training_samples(base, views)
        tried = self._try(base, data, store, views)
        chosen = self.variants[tried.choice.served]
        rehearsed = self._rehearse(chosen, recipe, base, data, views, found.images.catch_all)
        served = assign(
            recipe, {"rebalance.method": chosen.dump(), "score.method": rehearsed.score.dump()}
        )
        outcome = self._execute(served, store, found)
        fitted = Fitted(
            found,
            views,
            served,
            tried,
            rehearsed.rehearsal,
            outcome,
            base,
            data,
            backbone.title,
            key,
        )
        if plan is None:
            fitted = fitted._replace(deeper_seconds=self._deeper_seconds(found, backbone))
        else:
            deeper = DeeperJob(self.options, self.lines, self.folder, began=self._began)
            fitted = deeper.run(fitted, plan, backbone)
        return serve_fitted(fitted, self.options, self.folder, began=self._began)

    def _deeper_seconds(self, found: Found, backbone: FrozenBackbone) -> float:
        """Return about how long a fine-tuning of the backbone would take; 0: there can be none."""
        try:
            plan = plan_deeper(found.images, self.options, backbone)
        except ConfigError:  # too few photos
            return 0.0
        each = seconds_per_epoch(plan, found.source, self.device.type, batch=PROBED)
        return plan.epochs * each

    def _backbone(self) -> FrozenBackbone | None:
        """Return the backbone; ``None``: a small one is trained, and why is said."""
        say = partial(self.lines.say, "backbone")
        return backbone_at_hand(self.options.backbone, gpu=self.device.type == "cuda", say=say)

    def _rehearse(
        self,
        chosen: Rebalancer,
        recipe: Experiment,
        base: RecipeResult,
        data: Samples,
        views: Views,
        never_new: frozenset[str],
    ) -> Rehearsed:
        """Let each class play new with the chosen head, and choose the score by that."""
        names = [str(name) for name in views.summary["known_class_names"]]
        labels = base.artifacts["backbone"].pretraining_labels
        played = rehearse_scores(
            chosen,
            recipe,
            data,
            names,
            level=self.options.false_alarm,
            prior=expected_prior(
                self.options.prior, base.artifacts["classifier"].class_counts, names
            ),
            never_new=never_new,
            met=frozenset(met_classes(names, labels)),
            folder=self.folder,
            progress=partial(
                self.lines.step, "rehearsal", f"each of {len(names)} classes plays new"
            ),
        )
        turns = len(played.rehearsal.turns)
        told = f"{turns} of {len(names)} classes played new; {played.score.name} tells them best"
        self.lines.say("rehearsal", told if turns else "no class can play new")
        return played

    def _execute(self, recipe: Experiment, store: StageStore, found: Found) -> RecipeResult:
        """Run a recipe's stages; progress of features is that over all images."""
        stage: list[str] = []
        offsets = {"extract": 0, "extract_held_out": found.photos.train + found.photos.val}

        def count(done: int, total: int) -> None:
            if stage and stage[-1] in offsets:
                what = f"{found.photos.images:,} images"
                self.lines.step("features", what, offsets[stage[-1]] + done, found.photos.images)

        context = Context(device=self.device, seed=recipe.seed, progress=count)
        return execute(recipe, store, context, begun=stage.append)

    def _in_time(self) -> bool:
        """Say whether the search may go on."""
        limit = self.options.seconds
        return limit is None or time.monotonic() - self._began < limit

    def _try(self, base: RecipeResult, data: Samples, store: StageStore, views: Views) -> Tried:
        """Answer with every variant, out of fold or what validates, and choose."""
        began = time.monotonic()
        classifier = base.artifacts["classifier"]
        asked = validation_samples(base, views)
        alone = asked is not None and len(asked.labels.unique()) == 1
        asked = None if alone else asked
        keys = [use.key for use in base.uses if use.stage in ("classify", "extract")]
        what = f"{len(self.variants)} variants of head and balance"
        table = answer_all(
            self.variants,
            classifier,
            data,
            store=store,
            content=keys,
            asked=asked,
            progress=partial(self.lines.step, "search", what),
            in_time=self._in_time,
        )
        tried = int((table.predicted[:, 0] != NO_ANSWER).sum())
        names = [str(name) for name in views.summary["known_class_names"]]
        seen = data if asked is None else asked
        everyone = np.ones(len(seen.labels), dtype=bool)
        judged = judging(data, len(names)).numpy() if asked is None else everyone
        prior = expected_prior(self.options.prior, classifier.class_counts, names)
        answered = _answered(table, seen, judged, prior)
        choice = choose(answered, base=self._base, metric=self.options.metric)
        present = set(answered.labels.tolist())
        search = Search(
            variants=tried,
            metric=self.options.metric,
            best=in_words(self.variants[choice.best]),
            honest=choice.honest,
            base=in_words(self.variants[self._base]),
            gain=choice.gain,
            served=in_words(self.variants[choice.served]),
            serves_base=is_base(self.variants[choice.served]),
            classes_not_judged=[name for n, name in enumerate(names) if n not in present],
            seconds=time.monotonic() - began,
            judged_by=OUT_OF_FOLD if asked is None else OWN_VALIDATION,
            left_out=len(self.variants) - tried,
        )
        self.lines.say("search", search_line(search))
        if alone:  # it would choose what answers this class most often
            self.lines.say("", "val/ shows one class alone, so the choice is made out of fold")
        if search.left_out:
            self.lines.say("", f"--time left out {search.left_out} variants")
        return Tried(self.variants, table, choice, search, self._base)


def training_samples(base: RecipeResult, views: Views) -> Samples:
    """Return features, labels and groups of the training images."""
    train = views.known_train
    groups = None if train.groups is None else torch.from_numpy(train.groups)
    return samples(
        base.artifacts["features"].known_train, torch.from_numpy(train.labels), groups=groups
    )


def validation_samples(base: RecipeResult, views: Views) -> Samples | None:
    """Return features and labels of the folder's own validation images; ``None`` without any."""
    labels = torch.from_numpy(views.validation_known.labels)
    if not len(labels):
        return None
    groups = views.validation_known.groups
    return samples(
        base.artifacts["features"].validation_known,
        labels,
        groups=None if groups is None else torch.from_numpy(groups),
    )


def _answered(table: AnswerTable, data: Samples, judged: Any, prior: Tensor | None) -> Answered:
    """Return which answers are right, of the images that can be judged, or of all if none can."""
    assert prior is not None
    rows = np.flatnonzero(judged) if judged.any() else np.arange(len(data.labels))
    labels = data.labels.numpy()
    right = table.predicted.numpy()[:, rows] == labels[rows][None]
    return Answered(right, labels[rows], data.groups.numpy()[rows], prior.numpy())


@contextmanager
def _said_by_the_screen(*, usual: bool) -> Iterator[None]:
    """Silence the log on what the screen tells: preprocessing, and files that are left out.

    Of a file of one's own weights it says which preprocessing is assumed.
    """
    names = ("experiment", "data.faults", *(("weights.pretrained",) if usual else ()))
    loggers = [logging.getLogger(f"trainables.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
