"""What a training of a fit keeps out, how long it may take, and what its lines say, by values."""

from __future__ import annotations

import csv
import io
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.photo_folder import Found, look_at_folder
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.training import network_job, one_fold
from orchestrator.fitting.training.network_job import PACE, TABLE, NetworkJob
from orchestrator.fitting.training.training_plan import TrainingPlan, plan_from_scratch
from tests.helpers.small_fit import write_photos

SIZES = {"zero": 70, "one": 60, "two": 50, "three": 40, "six": 8}


class Said(Lines):
    """Lines, and the steps that were shown."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        super().__init__(self.out)
        self.steps: list[tuple[str, str, int, int]] = []

    def step(self, label: str, what: str, done: int, total: int) -> None:
        self.steps.append((label, what, done, total))

    def lines(self, label: str) -> list[str]:
        rows = self.out.getvalue().splitlines()
        return [row.removeprefix(label).strip() for row in rows if row.startswith(label)]


class Desk(NamedTuple):
    """Digits that were looked at, and where their model lies."""

    found: Found
    options: FitOptions
    home: Path

    def plan(self) -> TrainingPlan:
        return plan_from_scratch(self.found.images, self.options)

    def job(self, *, seconds: float | None = None, ago: float = 0.0) -> NetworkJob:
        """Return a job of a fit that began some seconds ago, with a limit."""
        asked = self.options.model_copy(update={"seconds": seconds})
        return NetworkJob(asked, Said(), self.home, began=time.monotonic() - ago)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    root = tmp_path_factory.mktemp("desk")
    photos = write_photos(root / "digits", SIZES)
    options = FitOptions(photos=photos, backbone="none", storage=str(root / "runs"))
    home = root / "runs" / "models" / "digits"
    return Desk(look_at_folder(photos, home), options, home)


def said_by(job: NetworkJob) -> Said:
    assert isinstance(job.lines, Said)
    return job.lines


def rows_of(table: Path) -> dict[str, tuple[str, str]]:
    """Return class and part of each image of a table."""
    with open(table, encoding="utf-8", newline="") as file:
        return {row["path"]: (row["label"], row["part"]) for row in csv.DictReader(file)}


def test_what_is_kept_out_is_written_down_and_nothing_else_moves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_job, "seconds_per_epoch", lambda *given: 2.0)
    plan, before = desk.plan(), {str(p.file): p for p in desk.found.images.photos}
    found, pace, recipe = desk.job().prepare(plan, desk.found, "key")
    rows = rows_of(desk.home / TABLE)
    assert found.source == recipe.data.source == f"table:{desk.home / TABLE}"
    assert found.images == plan.images
    assert rows.keys() == before.keys()
    assert all(before[path].class_name == label for path, (label, _) in rows.items())
    moved = {path for path, (_, part) in rows.items() if before[path].part != part}
    assert {before[path].part for path in moved} == {"train"}
    assert {rows[path][1] for path in moved} == {"val"}
    kept = Counter(rows[path][0] for path in moved)
    assert kept == Counter(p.class_name for p in plan.images.photos if p.part == "val")
    assert kept.total() >= 24  # 19 tell a level of 5 %, with a margin
    assert "six" not in kept  # too few images: all train
    shots = {(before[path].group, part) for path, (_, part) in rows.items()}
    assert len(shots) == len({group for group, _ in shots})  # each whole in one part
    assert (pace.epochs, pace.seconds) == (plan.epochs, 2.0 * plan.epochs)
    assert recipe.classify.training.epochs == plan.epochs


def test_epochs_are_what_the_time_that_is_left_allows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_job, "seconds_per_epoch", lambda *given: 10.0)

    def epochs(key: str, seconds: float, ago: float) -> int:
        _, pace, recipe = desk.job(seconds=seconds, ago=ago).prepare(desk.plan(), desk.found, key)
        assert recipe.classify.training.epochs == pace.epochs
        assert pace.seconds == 10.0 * pace.epochs
        return pace.epochs

    (desk.home / PACE).unlink(missing_ok=True)
    assert epochs("a", 120.0, ago=54.0) == 6  # 66 s are left
    assert epochs("a", 120.0, ago=500.0) == 6  # an interrupted fit goes on with its epochs
    assert epochs("b", 120.0, ago=500.0) == 1  # another fit, and no time is left
    assert epochs("c", 1e9, ago=0.0) == desk.plan().epochs


def test_training_and_rehearsal_by_values(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold of two of five classes plays new; lines count images as the tables do."""
    plan, job = desk.plan()._replace(epochs=2), desk.job()
    (desk.home / PACE).unlink(missing_ok=True)
    _, _, recipe = job.prepare(plan, desk.found, "short")
    trained = job.train(recipe, "training")
    said = said_by(job)
    assert said.steps == [("training", "2 epochs", 1, 2), ("training", "2 epochs", 2, 2)]
    parts = Counter(part for _, part in rows_of(desk.home / TABLE).values())
    views = trained.views
    assert len(views.known_train.labels) == parts["train"]
    assert len(views.validation_known.labels) == parts["val"]
    assert not set(views.known_train.indices) & set(views.validation_known.indices)
    (line,) = said.lines("training")
    times = r"(\d+ s|\d+ min \d+ s)"
    assert re.fullmatch(
        f"{parts['train']} images in {times}; {parts['val']} others set temperature and threshold",
        line,
    )

    assert len(plan.new) == 2
    rehearsed = job.rehearse(recipe, views, plan, met=frozenset({"zero"}))
    names = [turn.class_name for turn in rehearsed.rehearsal.turns]
    assert names == plan.new
    assert rehearsed.rehearsal.met == {"zero"}
    assert rehearsed.rehearsal.served == 0.05
    labels = [str(name) for name in views.summary["known_class_names"]]
    for turn in rehearsed.rehearsal.turns:  # all its images but those of the test
        own = labels.index(turn.class_name)
        both = np.concatenate([views.known_train.labels, views.validation_known.labels])
        assert turn.images == (both == own).sum()
        assert turn.together == tuple(name for name in plan.new if name != turn.class_name)
    assert said.lines("rehearsal") == [
        f"2 of 5 classes ({', '.join(plan.new)}) were new to a network that was trained without "
        f"them; {rehearsed.score.name} tells them best"
    ]
    assert said.steps[2:] == [("rehearsal", "2 epochs", 1, 2), ("rehearsal", "2 epochs", 2, 2)]

    # the threshold of a level needs so many images: 99 at 1 %, 19 at 5 %, 9 at 10 %
    assert rehearsed.rehearsal.levels == (0.05, 0.1)
    for turn in rehearsed.rehearsal.turns:
        assert turn.noticed.keys() == {0.05, 0.1}
        assert turn.noticed[0.05] <= turn.noticed[0.1]
    by_score = {}
    for score in one_fold.scores_for(100):  # each alone, from what is stored
        monkeypatch.setattr(one_fold, "scores_for", lambda images, score=score: [score])
        alone = job.rehearse(recipe, views, plan).rehearsal
        by_score[score] = {turn.class_name: turn for turn in alone.turns}
    means = {score: np.mean([t.auroc for t in own.values()]) for score, own in by_score.items()}
    assert len(means) == 2
    assert rehearsed.score == max(means, key=lambda score: means[score])
    # of two classes each is told by the score that tells the other one better
    for turn in rehearsed.rehearsal.turns:
        (other,) = turn.together
        chosen = max(by_score, key=lambda score: by_score[score][other].auroc)
        assert turn == by_score[chosen][turn.class_name]
    scores, (first, second) = tuple(by_score), plan.new
    monkeypatch.setattr(one_fold, "scores_for", lambda images: list(scores))
    monkeypatch.setattr(one_fold, "choose_score", lambda played: (0, {first: 1, second: 0}))
    parted = job.rehearse(recipe, views, plan)
    assert parted.score == scores[0]
    assert parted.rehearsal.turns == [by_score[scores[1]][first], by_score[scores[0]][second]]
    assert by_score[scores[0]][first] != by_score[scores[1]][first]


def test_a_fold_that_can_not_be_played_says_why_and_trains_nothing(desk: Desk) -> None:
    plan, job = desk.plan()._replace(new=[]), desk.job()
    assert not plan.rehearses
    recipe = plan.recipe(desk.found.source, 2)
    never = None  # the views are not looked at
    found = job.rehearse(recipe, never, plan)  # type: ignore[arg-type]
    assert found.rehearsal.turns == []
    assert said_by(job).lines("rehearsal") == [
        "there are too few classes: two play new while two or more stay known"
    ]
    assert said_by(job).steps == []
