from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from orchestrator.records import Objective, StageUse, SweepRecord, TrialRecord
from orchestrator.report.summary import (
    by_method,
    importance,
    measured,
    pareto_front,
    ranked,
    stage_reuse,
    varied,
)
from tests.helpers.factory import make_record, make_trials

UP = Objective(metric="a", mode="max")
DOWN = Objective(metric="b", mode="min")


def sweep(trials: list[TrialRecord], *objectives: Objective) -> SweepRecord:
    return SweepRecord(
        name="s",
        space="x",
        started="now",
        experiment={},
        objectives=list(objectives),
        environment={},
        trials=trials,
    )


def trial(number: int, state: str = "COMPLETE", **content: object) -> TrialRecord:
    return TrialRecord.model_validate(
        {"trial_id": f"t{number}", "number": number, "state": state, "params": {}, **content}
    )


def test_ranks_follow_the_mode_and_put_incomplete_trials_last() -> None:
    trials = [
        trial(0, metrics={"b": 2.0}),
        trial(1, "FAIL"),
        trial(2, metrics={"b": 1.0}),
        trial(3, "PRUNED", metrics={"b": 0.0}),
        trial(4, metrics={"b": math.nan}),
    ]
    assert [t.number for t in ranked(sweep(trials, DOWN))] == [2, 0, 4, 3, 1]


def test_several_objectives_are_ranked_by_the_sum_of_ranks() -> None:
    trials = [
        trial(0, metrics={"a": 3.0, "b": 9.0}),  # ranks 0 + 2
        trial(1, metrics={"a": 2.0, "b": 1.0}),  # ranks 1 + 0
        trial(2, metrics={"a": 1.0, "b": 5.0}),  # ranks 2 + 1
    ]
    assert [t.number for t in ranked(sweep(trials, UP, DOWN))] == [1, 0, 2]


def test_front_equals_its_definition_on_all_points_of_a_grid() -> None:
    points = [(float(x), float(y)) for x, y in itertools.product(range(4), repeat=2)]
    front = pareto_front(points, [UP, DOWN])
    expected = [
        not any((u >= x and v <= y) and (u > x or v < y) for u, v in points) for x, y in points
    ]
    assert front == expected
    assert [p for p, on in zip(points, front, strict=True) if on] == [(3.0, 0.0)]


def test_equal_points_are_all_on_the_front() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)], [UP, DOWN]) == [True, True]


def test_varied_counts_absence_and_tells_types_apart() -> None:
    trials = [
        trial(0, params={"same": 1, "sometimes": 2, "kind": 1}),
        trial(1, params={"same": 1, "kind": True}),
    ]
    assert varied(trials) == ["sometimes", "kind"]
    assert varied([]) == []


def test_reuse_counts_and_seconds() -> None:
    uses = [
        StageUse(stage="classify", key="a", reused=False, seconds=4.0),
        StageUse(stage="score", key="b", reused=False, seconds=1.0),
    ]
    again = [uses[0].model_copy(update={"reused": True}), uses[1]]
    rows = stage_reuse([trial(0, stages=uses), trial(1, stages=again)])
    assert rows == [("classify", 2, 1, 1, 4.0, 4.0), ("score", 2, 2, 0, 2.0, 0.0)]


def test_importance_finds_the_parameter_that_decides() -> None:
    rng = np.random.default_rng(3)
    trials = []
    for number in range(40):
        choice, noise = str(rng.choice(["p", "q", "r"])), float(rng.uniform())
        params: dict[str, object] = {"method": choice, "noise": noise}
        if choice == "q":
            params["only_q"] = float(rng.uniform())
        trials.append(trial(number, params=params, metrics={"a": float("pqr".index(choice))}))
    found = importance(sweep(trials, UP))
    assert found is not None
    assert next(iter(found.shares)) == "method"
    assert found.shares["method"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.explained > 0.8


def test_importance_of_pure_noise_is_called_noise() -> None:
    rng = np.random.default_rng(5)
    trials = [
        trial(n, params={"x": float(rng.uniform())}, metrics={"a": float(rng.normal())})
        for n in range(30)
    ]
    found = importance(sweep(trials, UP))
    assert found is not None
    assert found.explained < 0.1


@pytest.mark.parametrize("case", ["few", "equal", "constant"])
def test_importance_needs_something_to_learn_from(case: str) -> None:
    trials = [
        trial(
            n,
            params={"x": 1 if case == "constant" else n},
            metrics={"a": 1.0 if case == "equal" else float(n)},
        )
        for n in range(7 if case == "few" else 20)
    ]
    assert importance(sweep(trials, UP)) is None


def test_methods_are_listed_best_mean_first(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    groups = {group.name: group.methods for group in by_method(record)}
    assert set(groups) == {"classify.loss", "rebalance.method", "score.method"}
    for methods in groups.values():
        means = [sum(v) / len(v) for v in methods.values()]
        assert means == sorted(means, reverse=True)
        assert sum(len(v) for v in methods.values()) == len(measured(record))


def test_sweep_without_objectives_or_trials_has_empty_answers() -> None:
    empty = sweep([])
    assert ranked(empty) == []
    assert by_method(empty) == []
    assert importance(empty) is None
    assert stage_reuse([]) == []
    assert importance(sweep(make_trials(12))) is None
