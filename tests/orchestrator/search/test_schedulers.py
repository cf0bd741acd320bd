"""Successive halving against a written-out example; restart; resources that can never fit."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.search.schedulers import (
    SuccessiveHalving,
    _quantile,
    check_resources,
    make_scheduler,
)
from trainables.errors import ConfigError


def asha(**settings: Any) -> SuccessiveHalving:
    return SuccessiveHalving(**{"metric": "accuracy", "max_epochs": 9} | settings)


def report(scheduler: SuccessiveHalving, name: str, epoch: int, value: float, **more: Any) -> str:
    trial = SimpleNamespace(config={"trial_number": 0, "params": {"name": name}})
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "accuracy": value, **more})


def test_rungs_are_powers_below_the_last_epoch() -> None:
    assert asha(max_epochs=30).milestones == [[1, 3, 9, 27]]
    assert asha(max_epochs=27).milestones == [[1, 3, 9]]
    assert asha(max_epochs=9, grace_epochs=2, reduction_factor=2).milestones == [[2, 4, 8]]
    assert asha(max_epochs=1).milestones == [[]]
    assert asha(max_epochs=30, brackets=3).milestones == [[1, 3, 9, 27], [3, 9, 27], [9, 27]]


def test_who_is_behind_at_a_rung_is_stopped() -> None:
    scheduler = asha()
    # two thirds of [0.5] is 0.5, of [0.5, 0.6] 0.567, of [0.4, 0.5, 0.6] 0.533
    assert report(scheduler, "a", 1, 0.5) == "CONTINUE", "the first has nobody to compare with"
    assert report(scheduler, "b", 1, 0.6) == "CONTINUE"
    assert report(scheduler, "c", 1, 0.4) == "STOP"
    assert report(scheduler, "d", 1, 0.54) == "CONTINUE"
    assert report(scheduler, "a", 2, 0.0) == "CONTINUE", "no rung here"
    assert report(scheduler, "b", 3, 0.9) == "CONTINUE"
    assert report(scheduler, "a", 3, 0.8) == "STOP"
    assert scheduler.num_stopped == 2


def test_a_minimum_is_compared_the_other_way() -> None:
    scheduler = asha(mode="min")
    assert report(scheduler, "a", 1, 0.5) == "CONTINUE"
    assert report(scheduler, "b", 1, 0.6) == "STOP"


def test_a_trial_is_judged_once_per_rung() -> None:
    scheduler = asha()
    report(scheduler, "a", 1, 0.5)
    report(scheduler, "b", 1, 0.9)
    assert report(scheduler, "a", 2, 0.1) == "CONTINUE"


@pytest.mark.parametrize(
    "result",
    [
        {"epoch": 1},
        {"accuracy": 0.1},
        {"epoch": 1, "accuracy": float("nan")},
        {"epoch": 1, "accuracy": 0.1, "completed": 1.0},
    ],
)
def test_what_cannot_be_compared_goes_on(result: dict[str, float]) -> None:
    scheduler = asha()
    report(scheduler, "a", 1, 0.9)
    trial = SimpleNamespace(config={"params": {"name": "b"}})
    assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("restart", ["new driver", "unpickled"])
def test_rungs_survive_a_restart_and_a_trial_tried_again_counts_once(
    tmp_path: Path, restart: str
) -> None:
    before = asha(folder=tmp_path)
    for name, value in (("a", 0.7), ("b", 0.8), ("c", 0.9)):
        report(before, name, 1, value)
    new = restart == "new driver"
    after = asha(folder=tmp_path) if new else pickle.loads(pickle.dumps(before))
    assert after.rungs == before.rungs
    assert report(after, "a", 1, 0.7) == "CONTINUE", "it was judged before the kill"
    assert [len(rung) for rung in after.rungs.values()] == [3]
    assert report(after, "d", 1, 0.75) == "STOP"


def test_rungs_of_another_metric_are_refused(tmp_path: Path) -> None:
    report(asha(folder=tmp_path), "a", 1, 0.5)
    with pytest.raises(ConfigError, match="compares trials by accuracy"):
        report(asha(folder=tmp_path, mode="min"), "a", 1, 0.5)


def test_brackets_get_falling_shares_of_the_trials() -> None:
    scheduler = asha(max_epochs=100, brackets=3)
    draws = [scheduler.bracket_of(f"trial {i}") for i in range(3000)]
    shares = np.bincount(draws) / 3000
    np.testing.assert_allclose(shares, np.array([9, 3, 1]) / 13, atol=0.03)


def test_quantile_is_numpys() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 7):
        values = generator.normal(size=count).tolist()
        for share in (0.0, 0.5, 2 / 3, 1.0):
            assert _quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_schedulers_by_name() -> None:
    assert type(make_scheduler("none", metric="a", max_epochs=9)) is FIFOScheduler
    one = make_scheduler("asha", metric="a", max_epochs=30)
    three = make_scheduler("hyperband", metric="a", max_epochs=30)
    assert isinstance(one, SuccessiveHalving)
    assert isinstance(three, SuccessiveHalving)
    assert (len(one.milestones), len(three.milestones)) == (1, 3)
    assert one.metric is None, "Ray would demand it in every report"
    with pytest.raises(ConfigError, match="did you mean 'asha'"):
        make_scheduler("ahsa", metric="a", max_epochs=9)
    with pytest.raises(ConfigError, match="reduction_factor at least 2"):
        make_scheduler("asha", metric="a", max_epochs=9, reduction_factor=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.0, 3, {"CPU": 2.0}), "3 trials at once x 1 CPU need 3 CPUs.*at most 2 fit"),
        ((4.0, 0.0, 1, {"CPU": 2.0}), "needs 4 CPU, the cluster has 2"),
        ((1.0, 1.0, 1, {"CPU": 2.0}), "needs 1 GPU, the cluster has 0"),
        ((1.0, 0.5, 3, {"CPU": 8.0, "GPU": 1.0}), "at most 2 fit"),
        ((0.0, 0.0, 1, {"CPU": 2.0}), "must hold a CPU or a GPU"),
        ((1.0, 0.0, 0, {"CPU": 2.0}), "concurrency must be at least 1"),
    ],
)
def test_a_sweep_that_cannot_start_is_refused_in_one_line(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_resources(*arguments)
    assert "\n" not in str(error.value)


def test_trials_that_hold_all_cpus_starve_a_worker_group() -> None:
    with pytest.raises(ConfigError, match=r"2 trials at once x 1 CPU \+ 1 for a worker group"):
        check_resources(1.0, 0.0, 2, {"CPU": 2.0}, group={"CPU": 1.0})
    check_resources(1.0, 0.0, 1, {"CPU": 2.0}, group={"CPU": 1.0})


def test_what_fits_is_let_through() -> None:
    check_resources(1.0, 0.0, 2, {"CPU": 2.0})
    check_resources(1 / 3, 0.0, 6, {"CPU": 2.0})
    check_resources(0.5, 0.25, 4, {"CPU": 2.0, "GPU": 1.0})
