"""Which trials become finalists, and when nothing is left to do for a sweep."""

import pytest

from orchestrator.choice.finalist_choice import choose, finalists_of, is_baseline, is_complete
from orchestrator.options import SweepOptions
from orchestrator.records import (
    FailureRecord,
    FinalistRecord,
    Objective,
    PromotionRecord,
    StageUse,
    SweepRecord,
    TrialRecord,
)

ACCURACY = Objective(metric="evaluate/accuracy/balanced", mode="max")


def trial(number: int, accuracy: float | None, model: str = "") -> TrialRecord:
    """Return a completed trial, or a failed one without accuracy."""
    use = StageUse(stage="update", key=model or f"u{number}", reused=False, seconds=1.0)
    return TrialRecord(
        trial_id=f"t{number}", number=number, state="FAIL" if accuracy is None else "COMPLETE",
        params={"x": number}, metrics={} if accuracy is None else {ACCURACY.metric: accuracy},
        stages=[use],
    )  # fmt: skip


def finalist(name: str, *seeds: int) -> FinalistRecord:
    return FinalistRecord(trial_id=name, params={}, seeds=list(seeds), metrics={})


def failure(name: str, seed: int | None = None) -> FailureRecord:
    return FailureRecord(step="finalist", trial_id=name, seed=seed, error="loss is nan")


def complete(
    trials: list[TrialRecord],
    finalists: list[FinalistRecord],
    failures: list[FailureRecord],
    *,
    verdict: bool = True,
    asked: SweepOptions,
) -> bool:
    record = SweepRecord(
        name="s", space="full", started="", experiment={}, objectives=[ACCURACY], environment={},
        trials=trials, finalists=finalists, failures=failures,
        promotion=PromotionRecord(model="m", version="1", promoted=True, gates=[])
        if verdict else None,
    )  # fmt: skip
    return is_complete(record, record.objectives, asked)


TWO = SweepOptions(trials=3, finalists=2, num_seeds=2)
TRIALS = [trial(0, 0.5), trial(1, 0.7), trial(2, 0.6)]
ALL = [finalist("t1", 1, 2), finalist("t2", 1, 2), finalist("t0", 1, 2)]


def test_nothing_is_left_after_trials_finalists_and_a_verdict() -> None:
    assert complete(TRIALS, ALL, [], asked=TWO)
    assert not complete(TRIALS, ALL, [], asked=TWO, verdict=False)
    assert not complete(TRIALS[:2], ALL, [], asked=TWO)
    assert not complete(TRIALS, ALL[:2], [], asked=TWO)
    assert not complete(TRIALS, ALL, [], asked=TWO.model_copy(update={"num_seeds": 3}))


def test_a_trial_that_failed_was_tried() -> None:
    trials = [trial(0, 0.5), trial(1, 0.7), trial(2, None)]
    assert complete(trials, [finalist("t1", 1, 2), finalist("t0", 1, 2)], [], asked=TWO)


def test_fewer_distinct_finalists_than_asked_for_are_all_there_are() -> None:
    trials = [trial(0, 0.5, "same"), trial(1, 0.7, "same"), trial(2, 0.7, "same")]
    assert [t.trial_id for t in finalists_of(trials, [ACCURACY], 5)] == ["t1", "t0"]
    asked = TWO.model_copy(update={"finalists": 5})
    assert complete(trials, [finalist("t1", 1, 2), finalist("t0", 1, 2)], [], asked=asked)


@pytest.mark.parametrize(
    ("finalists", "failures"),
    [
        ([finalist(n, 1) for n in ("t1", "t2", "t0")], [failure("t2", 2)]),
        ([finalist(n, 1, 2) for n in ("t1", "t0")], [failure("t2", 1), failure("t2", 2)]),
        ([finalist(n, 1, 2) for n in ("t1", "t0")], [failure("t2")]),
        ([], [failure(n, seed) for n in ("t0", "t1", "t2") for seed in (1, 2)]),
    ],
    ids=["one seed", "one finalist", "its export", "all"],
)
def test_what_failed_among_finalists_is_not_run_again(
    finalists: list[FinalistRecord], failures: list[FailureRecord]
) -> None:
    assert complete(TRIALS, finalists, failures, asked=TWO)


def test_a_sweep_in_which_all_failed_has_nothing_to_promote() -> None:
    assert complete([trial(n, None) for n in range(3)], [], [], asked=TWO, verdict=False)


def test_trials_without_a_value_of_the_objective_are_no_finalists() -> None:
    other = Objective(metric="evaluate/novelty/auroc", mode="max")
    assert [t.trial_id for t in finalists_of(TRIALS, [ACCURACY, other], 2)] == ["t0"]


# --- who is chosen ----------------------------------------------------------------------------

ERROR = Objective(metric="evaluate/calibration/ece", mode="min")
MORE = [trial(n, accuracy) for n, accuracy in enumerate([0.5, 0.7, 0.6, 0.9, 0.8])]


def names(trials: list[TrialRecord]) -> list[str]:
    return [t.trial_id for t in trials]


@pytest.mark.parametrize(
    ("count", "best"), [(1, ["t3"]), (2, ["t3", "t4"]), (4, ["t3", "t4", "t1", "t2"])]
)
def test_the_best_come_first_and_then_the_base(count: int, best: list[str]) -> None:
    for order in (MORE, MORE[::-1]):
        assert names(choose(order, [ACCURACY], count)) == best
        assert names(finalists_of(order, [ACCURACY], count)) == [*best, "t0"]


def test_least_is_best_where_the_objective_says_so() -> None:
    down = [Objective(metric=ACCURACY.metric, mode="min")]
    assert names(choose(MORE, down, 3)) == ["t0", "t2", "t1"]
    assert names(finalists_of(MORE, down, 3)) == ["t0", "t2", "t1"], "the base once"


def test_equal_trials_keep_their_order_and_failed_ones_take_no_part() -> None:
    stopped = trial(5, 0.9).model_copy(update={"state": "PRUNED"})
    some = [stopped, trial(3, 0.5), trial(1, 0.5), trial(2, None), trial(4, 0.4)]
    assert names(choose(some, [ACCURACY], 5)) == ["t1", "t3", "t4"]


def test_ranks_of_objectives_are_added_and_equal_values_share_a_rank() -> None:
    # ranks by accuracy 0, 1, 2, 3; by error 2, 1, 0, 0: sums 2, 2, 2, 3
    values = [(0.9, 0.3), (0.8, 0.2), (0.7, 0.1), (0.6, 0.1)]
    some = [trial(n, accuracy) for n, (accuracy, _) in enumerate(values)]
    for found, (_, error) in zip(some, values, strict=True):
        found.metrics[ERROR.metric] = error
    assert names(choose(some, [ACCURACY, ERROR], 4)) == ["t0", "t1", "t2", "t3"]
    some[2].metrics[ACCURACY.metric] = 0.8  # ranks 0, 1, 1, 2 and 2, 1, 0, 0
    assert names(choose(some, [ACCURACY, ERROR], 4)) == ["t2", "t0", "t1", "t3"]


def test_of_equal_models_the_best_is_a_finalist_unless_they_score_otherwise() -> None:
    twins = [trial(0, 0.5, "same"), trial(1, 0.7, "same"), trial(2, 0.6, "same"), trial(3, 0.1)]
    assert names(choose(twins, [ACCURACY], 4)) == ["t1", "t3"]
    score = StageUse(stage="score", key="other", reused=False, seconds=1.0)
    twins[2].stages.append(score)
    assert names(choose(twins, [ACCURACY], 4)) == ["t1", "t2", "t3"]
    assert names(finalists_of(twins, [ACCURACY], 4)) == ["t1", "t2", "t3", "t0"]


def test_the_base_is_the_first_trial_if_it_ended() -> None:
    def ended(number: int, state: str, **rung: int) -> bool:
        entry = {"trial_id": "t", "number": number, "params": {}, "rung": rung}
        return is_baseline(TrialRecord.model_validate({**entry, "state": state}))

    assert ended(0, "COMPLETE")
    assert ended(0, "PRUNED", epochs=3), "of a ladder, whose lowest rung it runs"
    assert not ended(0, "PRUNED"), "stopped by a scheduler"
    assert not ended(0, "FAIL")
    assert not ended(0, "RUNNING")
    assert not ended(1, "COMPLETE")
