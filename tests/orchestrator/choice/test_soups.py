"""Soups as finalists: of which trials, in which order, and when they are not chosen."""

from __future__ import annotations

from typing import Any

from orchestrator.choice import soups
from orchestrator.choice.finalist_choice import asked_finalists, choose, final_round_is_done
from orchestrator.choice.soups import MOST
from orchestrator.options import SweepOptions
from orchestrator.records import (
    FinalistRecord,
    Interval,
    Objective,
    StageUse,
    SweepRecord,
    TrialRecord,
    best_finalist,
)
from trainables.experiment import Experiment
from trainables.settings import assign

ACCURACY = Objective(metric="evaluate/accuracy/balanced", mode="max")
BASE = assign(Experiment(), {"rebalance.method": "none"})


def trial(number: int, accuracy: float, trunk: str = "a", **params: Any) -> TrialRecord:
    """Return a completed trial with settings of its rebalancer, and the trunk of a name."""
    uses = [
        StageUse(stage=stage, key=key, reused=False, seconds=1.0)
        for stage, key in (("classify", trunk), ("update", f"u{number}"))
    ]
    named = {"rebalance.method" + ("." if k else "") + k: v for k, v in params.items() if k != "s"}
    return TrialRecord(
        trial_id=f"t{number}", number=number, state="COMPLETE", stages=uses,
        params={"score.method": params.get("s", "energy"), **named},
        metrics={ACCURACY.metric: accuracy},
    )  # fmt: skip


def ridge(width: int) -> dict[str, Any]:
    return {"": "ridge", "ridge.width": width}


TRIALS = [
    trial(0, 0.5),
    trial(1, 0.7, **ridge(500), s="max_logit"),
    trial(2, 0.9, "b", **ridge(1000)),
    trial(3, 0.8, **{"": "tuned"}),
    trial(4, 0.65, **{"": "lda", "lda.shrinkage": 0.5}),
    trial(5, 0.6, **ridge(500)),
    trial(6, 0.95, "b", **{"": "tuned"}),
    trial(7, 0.85, "b", **{"": "lda"}),
]


def record(trials: list[TrialRecord], **more: Any) -> SweepRecord:
    return SweepRecord(
        name="s", space="frozen", started="", experiment=BASE.model_dump(mode="json"),
        objectives=[ACCURACY], environment={}, trials=trials, **more,
    )  # fmt: skip


def soups_of(trials: list[TrialRecord]) -> list[TrialRecord]:
    return soups.soups_of(choose(trials, [ACCURACY], len(trials)), BASE)


def members_of(soup: TrialRecord) -> list[dict[str, Any]]:
    return [member.dump() for member in assign(BASE, soup.params).rebalance.method.members]


def test_members_are_the_best_trials_on_the_trunk_of_the_best_one() -> None:
    greedy, uniform = soups_of(TRIALS)
    assert (greedy.title, uniform.title) == ("greedy soup", "uniform soup")
    assert [assign(BASE, s.params).rebalance.method.selection for s in (greedy, uniform)] == [
        "greedy",
        "uniform",
    ]
    # the best trial is a search, which cannot be mixed; of the next one's trunk 'b' there are two
    first, second = members_of(greedy)
    assert (first["ridge"]["width"], [*second]) == (1000, ["lda"])
    on_a = [t for t in TRIALS if t.stages[0].key == "a"]
    soup = soups_of(on_a)[1]
    best, other, last = members_of(soup)  # each once, best first
    assert (best["ridge"]["width"], other["lda"]["shrinkage"], [*last]) == (500, 0.5, ["none"])
    assert soup.params["score.method"] == "max_logit"  # as in the best of the members
    assert not any("ridge" in name or "lda" in name for name in soup.params)


def test_fewer_than_two_members_make_no_soup_and_many_are_cut() -> None:
    assert not soups_of(TRIALS[:1])
    assert not soups_of([TRIALS[1], TRIALS[5]])  # one and the same
    assert not soups_of([TRIALS[1], TRIALS[2]])  # two trunks
    assert not soups_of([TRIALS[3]])
    many = [trial(n, 0.5 + n / 100, **ridge(100 + n)) for n in range(MOST + 3)]
    widths = [m["ridge"]["width"] for m in members_of(soups_of(many)[0])]
    assert widths == [100 + n for n in reversed(range(3, MOST + 3))]


def test_soups_are_asked_for_and_come_last() -> None:
    options = SweepOptions(trials=8, finalists=2, num_seeds=1)
    wanted = options.model_copy(update={"soup": True})
    plain = asked_finalists(record(TRIALS), [ACCURACY], options)
    assert [t.trial_id for t in plain] == ["t6", "t2", "t0"]
    with_soups = asked_finalists(record(TRIALS), [ACCURACY], wanted)
    assert with_soups[:3] == plain
    assert [t.trial_id for t in with_soups[3:]] == ["soup-greedy", "soup-uniform"]
    done = [FinalistRecord(trial_id=t.trial_id, params={}, seeds=[1], metrics={}) for t in plain]
    assert final_round_is_done(record(TRIALS, finalists=done), [ACCURACY], options)
    assert not final_round_is_done(record(TRIALS, finalists=done), [ACCURACY], wanted)
    numbers = [t.number for t in with_soups]
    assert len(set(numbers)) == len(numbers)


def test_a_soup_that_is_only_as_good_on_validation_is_not_chosen() -> None:
    def finalist(name: str, accuracy: float) -> FinalistRecord:
        value = Interval(mean=accuracy, low=0.0, high=1.0, values=[accuracy])
        metrics = {f"validation/{ACCURACY.metric}": value}
        return FinalistRecord(trial_id=name, params={}, seeds=[1], metrics=metrics)

    order = [t.trial_id for t in soups_of(TRIALS)]
    trials = [finalist("t2", 0.8), finalist("t0", 0.5)]
    equal = [*trials, *(finalist(name, 0.8) for name in order)]
    assert best_finalist(equal, [ACCURACY]).trial_id == "t2"
    better = [*trials, finalist(order[0], 0.81), finalist(order[1], 0.7)]
    assert best_finalist(better, [ACCURACY]).trial_id == "soup-greedy"
    assert record(TRIALS, finalists=better).titles["soup-greedy"] == "greedy soup"
    assert record(TRIALS, finalists=better).titles["t2"] == "trial 2"
