"""What a sweep's options become in the study and in Ray Tune."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.tune import Callback

from orchestrator.options import SweepOptions
from orchestrator.records import Objective, SweepRecord, TrialRecord
from orchestrator.search.searcher import StudySearcher
from orchestrator.trials.sweep_start import open_sampler
from orchestrator.trials.tuning import FIDELITY_METRIC, make_tuner, open_searcher
from trainables.experiment import Experiment
from trainables.settings import assign

OBJECTIVES = [
    Objective(metric="evaluate/accuracy/balanced", mode="max"),
    Objective(metric="evaluate/calibration/ece", mode="min"),
]
BASE = assign(Experiment(), {"seed": 3, "classify.training.epochs": 9})
OPTIONS = SweepOptions(trials=9, scheduler="asha", gpus_per_trial=0.5, train_workers=1)


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[StudySearcher]:
    record = SweepRecord(
        name="monday", space="full", started="", experiment=BASE.model_dump(mode="json"),
        objectives=OBJECTIVES, environment={},
        trials=[TrialRecord(trial_id="trial-0000", number=0, state="COMPLETE", params={})],
    )  # fmt: skip
    found = open_searcher(
        OPTIONS,
        BASE,
        record,
        objectives=OBJECTIVES,
        sampler=open_sampler(OPTIONS, BASE, record),
        folder=tmp_path / "monday",
    )
    assert found.known is record.trials
    yield found
    found.close()


def test_the_study_asks_for_all_trials_and_for_the_base_recipe_first(
    searcher: StudySearcher,
) -> None:
    assert searcher.remaining == 9
    assert [o.metric for o in searcher.objectives] == [o.metric for o in OBJECTIVES]
    assert searcher.fidelity == Objective(metric=FIDELITY_METRIC, mode="max")
    assert searcher.ladder is None
    first: Any = searcher.suggest("ray-1")
    assert assign(BASE, first["params"]) == BASE


def test_tune_runs_what_the_study_proposes_until_the_study_ends_it(
    searcher: StudySearcher, tmp_path: Path
) -> None:
    callback = Callback()
    tuner = make_tuner(
        searcher,
        OPTIONS,
        BASE,
        storage="file:///storage",
        views_digest="of all images",
        folder=tmp_path / "monday",
        at_once=2,
        callback=callback,
    )
    tune, run = tuner._local_tuner._tune_config, tuner._local_tuner._run_config
    assert tune.search_alg is searcher
    assert (tune.num_samples, tune.max_concurrent_trials, tune.reuse_actors) == (-1, 2, True)
    assert run.storage_path == str(tmp_path / "monday" / "tune")
    assert run.callbacks == [callback]
    assert tune.scheduler.milestones == [[1, 3, 9]]  # the classifier's last epoch, too
    wanted = tuner._local_tuner.converted_trainable._resources
    assert wanted.required_resources == {"CPU": 1.0, "GPU": 0.5}
