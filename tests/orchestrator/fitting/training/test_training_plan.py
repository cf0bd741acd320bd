"""What a fit will train, counted, and how long an epoch of it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.training import training_plan
from orchestrator.fitting.training.training_plan import plan_from_scratch, seconds_per_epoch
from tests.orchestrator.fitting.training.test_kept_out import counts, photos
from trainables.errors import ConfigError

OPTIONS = FitOptions(photos=Path("pets"), backbone="none")
SIZES = {"cat": 200, "dog": 100, "fox": 100, "owl": 80}


def test_an_epoch_is_one_of_both_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_from_scratch(photos(SIZES), OPTIONS)
    kept = sum(counts(plan.images).values())
    assert kept == 30 + 15 + 15 + 12  # 15 % of each class
    assert len(plan.new) == 2
    known = sum(size for name, size in SIZES.items() if name not in plan.new)
    fold = known - sum(counts(plan.fold).values())
    assert plan.rehearses
    assert plan.images_per_epoch == 480 - kept + fold
    assert plan.epochs == 100  # 80,000 images seen, but 100 at most
    monkeypatch.setattr(training_plan, "seconds_per_image", lambda *given, **more: 0.5)
    assert seconds_per_epoch(plan, "table:x", "cpu") == 0.5 * plan.images_per_epoch
    alone = plan._replace(new=[])
    assert alone.images_per_epoch == 480 - kept


def test_the_fold_and_the_network_keep_images_out_each_for_itself() -> None:
    plan = plan_from_scratch(photos(SIZES), OPTIONS)
    assert not {p.class_name for p in plan.fold.photos} & set(plan.new)
    assert {p.part for p in plan.fold.photos} == {"train", "val"}
    assert {p.class_name for p in plan.images.photos} == set(SIZES)
    assert plan.recipe("table:x", 7).classify.training.epochs == 7
    assert plan.recipe("table:x", 7).data.image_size == 32


def test_photos_that_can_not_set_a_threshold_are_refused() -> None:
    with pytest.raises(ConfigError, match="sets its threshold by at least 24 images"):
        plan_from_scratch(photos({"cat": 30, "dog": 20}), OPTIONS)
