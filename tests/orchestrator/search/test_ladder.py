"""The fidelity ladder: promotions by a brute-force oracle, kills, what TPE sees, the epochs."""

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.choice.finalist_choice import choose, is_baseline
from orchestrator.execution.execute import execute
from orchestrator.records import Objective, TrialRecord
from orchestrator.report.page import recipes
from orchestrator.search.ladder import UNTIL, Ladder, NextTrial, rung_of
from orchestrator.search.ladder_view import Ranked
from orchestrator.search.sampler_names import NAMES
from orchestrator.search.samplers import plan_sampler
from orchestrator.search.searcher import StudySearcher
from orchestrator.store.stage_store import StageStore
from tests.helpers import ROOT
from tests.helpers.factory import make_record
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

ACCURACY = Objective(metric="accuracy", mode="max")
ERROR = Objective(metric="error", mode="min")
FINISHED = StudySearcher.FINISHED
BASE = assign(Experiment(), {"classify.training.epochs": 16})  # rungs 2, 4, 8, 16


def ladder(**given: Any) -> Ladder:
    usual = {"num_trials": 99, "rungs": 4, "lowest": 1}
    return Ladder(given.pop("base", BASE), [given.pop("objective", ACCURACY)], **usual | given)


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[Callable[..., StudySearcher]]:
    """Make searchers on one folder; each new one stands for a new process."""
    made: list[StudySearcher] = []

    def make(
        trials: int = 30, *, objective: Objective = ACCURACY, sampler: str = "tpe", **given: Any
    ) -> StudySearcher:
        settings = {"space": "long_tail", "base": BASE} | given
        found = StudySearcher(
            folder=tmp_path / "sweep",
            objectives=[objective],
            num_trials=trials,
            sampler=plan_sampler(sampler, space=settings["space"], base=BASE, objectives=["a"]),
            ladder=ladder(num_trials=trials, objective=objective, base=settings["base"]),
            **settings,
        )
        made.append(found)
        return found

    yield make
    for one in made:
        one.close()


def finish(search: StudySearcher, name: str, value: float) -> None:
    metric = search.objectives[0].metric
    search.on_trial_complete(name, {"completed": 1.0, "epoch": 1, metric: value})


# --- the rule -----------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A trial as the oracle notes it."""

    number: int
    rung: int
    parent: int | None
    value: float | None  # None: it runs


def oracle(entries: list[Entry], top: int, factor: int, *, maximize: bool) -> int | None:
    """Return whom algorithm 2 promotes: counted by who is ahead, pair by pair."""
    for rung in range(top - 1, -1, -1):
        here = [e for e in entries if e.rung == rung and e.value is not None]
        best: Entry | None = None
        for entry in here:
            ahead = sum(
                (other.value > entry.value if maximize else other.value < entry.value)  # type: ignore[operator]
                or (other.value == entry.value and other.number < entry.number)
                for other in here
            )
            taken = any(e.parent == entry.number for e in entries)
            if not taken and (ahead + 1) * factor <= len(here):
                better = best is None or (
                    (entry.value > best.value) if maximize else (entry.value < best.value)  # type: ignore[operator]
                )
                best = entry if better else best
        if best is not None:
            return best.number
    return None


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize(("factor", "rungs"), [(2, 4), (3, 3), (4, 2)])
def test_promotions_are_those_of_the_oracle(*, maximize: bool, factor: int, rungs: int) -> None:
    rule = ladder(
        objective=ACCURACY if maximize else ERROR, reduction_factor=factor, rungs=rungs,
        base=assign(BASE, {"classify.training.epochs": 100}), num_trials=10**6,
    )  # fmt: skip
    draw, entries, promotions = random.Random(factor), [], 0
    for _ in range(400):
        running = [e for e in entries if e.value is None]
        if len(running) == 3:  # three at a time, and any of them ends first
            ended = draw.choice(running)
            entries[ended.number] = ended._replace(value=float(draw.randrange(20)))
        chosen = rule.next_trial([frozen(e) for e in entries], remaining=1000)
        expected = oracle(entries, rule.top, factor, maximize=maximize)
        if expected is None:
            assert chosen is NextTrial.NEW
            entries.append(Entry(len(entries), 0, None, None))
            continue
        assert isinstance(chosen, FrozenTrial)
        assert chosen.number == expected
        promotions += 1
        entries.append(Entry(len(entries), entries[expected].rung + 1, expected, None))
    assert promotions > 50
    assert {e.rung for e in entries} == set(range(rungs))


def frozen(entry: Entry, **more: Any) -> FrozenTrial:
    attributes = {"rung": entry.rung, "promoted_from": entry.parent}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    trial = create_trial(
        state=TrialState.RUNNING if entry.value is None else TrialState.COMPLETE,
        value=entry.value,
        user_attrs=attributes | more,
        params={"x": entry.number / 1000},
        distributions={"x": FloatDistribution(0.0, 1.0)},
    )
    trial.number = entry.number
    return trial


def test_a_failed_trial_is_in_nobodys_way() -> None:
    trials = [frozen(Entry(n, 0, None, float(n))) for n in range(4)]
    failed = create_trial(state=TrialState.FAIL, user_attrs={"rung": 1, "promoted_from": 3})
    failed.number = 4
    chosen = ladder().next_trial([*trials, failed], remaining=50)
    assert isinstance(chosen, FrozenTrial)
    assert chosen.number == 2, "trial 3 had its promotion, which failed"


@pytest.mark.parametrize(("trials", "at_once"), [(4, 1), (4, 3), (5, 2), (9, 5), (20, 2)])
def test_the_top_is_always_reached_and_no_trial_is_lost(
    searcher: Callable[..., StudySearcher], trials: int, at_once: int
) -> None:
    search, draw, running = searcher(trials), random.Random(trials), []
    for count in range(1000):
        found = search.suggest(f"t{count}") if len(running) < at_once else None
        if found == FINISHED and not running:
            break
        if found is None or found == FINISHED:
            assert running, "waiting for nobody"
            finish(search, running.pop(draw.randrange(len(running))), draw.random())
        else:
            running.append(f"t{count}")
    told = search.study.get_trials(deepcopy=False)
    assert len(told) == trials
    assert sum(t.state is TrialState.COMPLETE for t in told) >= 1
    assert all(rung_of(t) == 3 for t in told if t.state is TrialState.COMPLETE)
    assert {rung_of(t) for t in told} == {0, 1, 2, 3}


# --- trials -------------------------------------------------------------------------------------


def test_a_promotion_is_the_same_recipe_trained_longer(
    searcher: Callable[..., StudySearcher],
) -> None:
    search = searcher()
    first, second = search.suggest("a"), search.suggest("b")
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["rung"] == second["rung"] == {UNTIL: 2}
    finish(search, "a", 0.5)
    finish(search, "b", 0.6)
    third = search.suggest("c")
    assert third == {"trial_number": 2, "params": second["params"], "rung": {UNTIL: 4}}
    told = search.study.get_trials(deepcopy=False)
    assert [t.state.name for t in told] == ["PRUNED", "PRUNED", "RUNNING"]
    assert told[1].intermediate_values == {2: 0.6}
    assert told[2].user_attrs == {"rung": 1, "promoted_from": 1, "ray_trial": "c"}
    assert search.study.best_trials == [], "nothing is complete below the top"


def test_the_top_is_the_recipe_itself_and_complete(searcher: Callable[..., StudySearcher]) -> None:
    search = searcher(4)
    suggestions = []
    for number in range(4):
        suggestions.append(search.suggest(str(number)))
        finish(search, str(number), 0.1 * number)
    assert [s["rung"] for s in suggestions] == [{UNTIL: 2}, {UNTIL: 4}, {UNTIL: 8}, {}]  # type: ignore[index]
    assert search.suggest("more") == FINISHED
    (best,) = search.study.best_trials
    assert (best.number, best.value) == (3, pytest.approx(0.3))


def test_nan_fails_on_any_rung_and_is_not_promoted(searcher: Callable[..., StudySearcher]) -> None:
    search = searcher()
    for name, value in (("a", float("nan")), ("b", 0.1), ("c", 0.2)):
        search.suggest(name)
        finish(search, name, value)
    assert search.study.get_trials()[0].state is TrialState.FAIL
    assert search.suggest("d")["params"] == search.params(2)  # type: ignore[index]


def test_an_update_of_the_trunk_waits_for_the_top() -> None:
    recipe = assign(BASE, {"update.mode": "full"})
    assert ladder().changes(recipe, 1) == {UNTIL: 4, "update.mode": "head"}
    assert ladder().changes(recipe, 3) == {}


def test_a_recipe_with_other_epochs_has_rungs_of_its_own() -> None:
    assert ladder().changes(assign(BASE, {"classify.training.epochs": 100}), 1) == {UNTIL: 25}
    few = assign(BASE, {"classify.training.epochs": 2})
    assert [ladder().changes(few, rung) for rung in range(4)] == [{UNTIL: 1}] * 3 + [{}]


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(5, [3, 5]), (15, [4, 8, 15]), (24, [3, 6, 12, 24]), (100, [7, 13, 25, 50, 100])],
)
def test_no_rung_is_so_low_that_all_guess(epochs: int, rungs: list[int]) -> None:
    base = assign(BASE, {"classify.training.epochs": epochs})
    assert Ladder(base, [ACCURACY], num_trials=99).milestones == rungs


def test_a_recipe_too_short_for_a_rung_below_starts_at_the_top() -> None:
    short = assign(BASE, {"classify.training.epochs": 4})
    assert [ladder(lowest=3).changes(short, rung) for rung in range(3)] == [{}] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"classify.training.epochs": 0},
        {"data.unlabelled.ratio": 1.0, "classify.self_trainer": "hard_labels"},
    ],
)
def test_a_recipe_that_cannot_be_shortened_starts_at_the_top(
    searcher: Callable[..., StudySearcher],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    search = searcher()
    monkeypatch.setattr(search, "params", lambda number: changes)
    found = search.suggest("a")
    assert isinstance(found, dict)
    assert found["rung"] == {}
    finish(search, "a", 0.5)
    (trial,) = search.study.get_trials()
    assert (trial.state, rung_of(trial)) == (TrialState.COMPLETE, 3)


# --- kills --------------------------------------------------------------------------------------


def value_of(params: dict[str, Any]) -> float:
    """A recipe's value: the same whenever it is tried."""
    return float(params["classify.training.lr"]) % 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_moment_changes_no_rung(
    searcher: Callable[..., StudySearcher], seed: int
) -> None:
    draw, search, ended = random.Random(seed), searcher(24), 0
    kills = in_a_row = 0
    for count in range(200):
        found = search.suggest(f"t{count}")
        if found == FINISHED:
            break
        assert isinstance(found, dict)
        if kills < 8 and in_a_row < 2 and draw.random() < 0.4:  # the third would give it up
            kills, in_a_row = kills + 1, in_a_row + 1
            search = searcher(24)  # no close: the driver was killed while the trial ran
            continue
        finish(search, f"t{count}", value_of(found["params"]))
        ended, in_a_row = ended + 1, 0
    assert kills > 3
    told = [t for t in search.study.get_trials() if not t.user_attrs.get("superseded")]
    assert len(told) == ended == 24
    for trial in told:
        assert trial.state is (TrialState.COMPLETE if rung_of(trial) == 3 else TrialState.PRUNED)
        source = trial.user_attrs.get("promoted_from")
        assert (source is None) == (rung_of(trial) == 0)
        if source is not None:
            below = search.study.get_trials()[source]
            assert (rung_of(below), below.params) == (rung_of(trial) - 1, trial.params)
    sources = [t.user_attrs.get("promoted_from") for t in told if rung_of(t)]
    assert len(sources) == len(set(sources)), "promoted once"


def test_a_retry_keeps_its_rung_and_comes_first(searcher: Callable[..., StudySearcher]) -> None:
    first = searcher(5)
    for name in ("a", "b"):
        first.suggest(name)
        finish(first, name, 0.5)
    lost = first.suggest("c")
    again = searcher(5).suggest("d")
    assert isinstance(lost, dict)
    assert isinstance(again, dict)
    assert (again["params"], again["rung"]) == (lost["params"], lost["rung"])
    assert again["rung"] == {UNTIL: 4}


def test_a_study_keeps_its_ladder(searcher: Callable[..., StudySearcher], tmp_path: Path) -> None:
    searcher()
    plain = {"folder": tmp_path / "sweep", "space": "long_tail", "base": BASE, "num_trials": 9}
    with pytest.raises(ConfigError, match="with ladder 2, 4, 8, 16, now it is none"):
        StudySearcher(objectives=[ACCURACY], **plain)


# --- what others see ----------------------------------------------------------------------------


def test_the_sampler_sees_each_recipe_once_ranked_by_its_highest_rung(
    searcher: Callable[..., StudySearcher],
) -> None:
    search = searcher()
    for count in range(20):
        found = search.suggest(str(count))
        assert isinstance(found, dict)
        finish(search, str(count), value_of(found["params"]))
        reached: dict[str, tuple[int, float]] = {}
        for trial in search.study.get_trials(deepcopy=False):
            assert trial.value is not None
            place = rung_of(trial), trial.value
            reached[str(trial.params)] = max(place, reached.get(str(trial.params), place))
        seen = Ranked(search.study).get_trials(deepcopy=False)
        assert {str(t.params) for t in seen} == reached.keys()
        assert len(seen) == len(reached)
        assert {t.state for t in seen} == {TrialState.COMPLETE}
        by_rank = sorted(seen, key=lambda t: t.value or 0.0)
        assert sorted(reached.values()) == [reached[str(t.params)] for t in by_rank]
    assert {rung_of(t) for t in search.study.get_trials()} == {0, 1, 2, 3}


def ranks(search: StudySearcher) -> list[float | None]:
    return [t.value for t in Ranked(search.study).get_trials()]


def test_a_recipe_that_is_being_promoted_counts_by_the_rung_below(
    searcher: Callable[..., StudySearcher],
) -> None:
    search = searcher()
    for name, value in (("a", 0.5), ("b", 0.4)):
        search.suggest(name)
        finish(search, name, value)
    assert ranks(search) == [1.0, 0.0]
    promotion = search.suggest("c")
    assert isinstance(promotion, dict)
    assert promotion["rung"] == {UNTIL: 4}
    assert ranks(search) == [1.0, 0.0]
    finish(search, "c", 0.1)
    assert ranks(search) == [1.0, 0.0], "longer trained: its lower value is of another rung"
    assert [t.number for t in Ranked(search.study).get_trials()] == [0, 1]


def test_ranks_follow_the_objective_and_equal_values_are_equal(
    searcher: Callable[..., StudySearcher],
) -> None:
    search = searcher(objective=ERROR)
    search.suggest("a")
    finish(search, "a", 0.5)
    search.suggest("b")
    promoted = search.suggest("c")  # a, the best of the one that ended, has to wait for another
    assert isinstance(promoted, dict)
    for name in ("b", "c"):
        finish(search, name, 0.7)
    assert ranks(search) == [-1.0, 0.0, 0.0], "to be minimized: the best is the smallest"


def test_a_trial_that_failed_or_runs_is_shown_as_it_is(
    searcher: Callable[..., StudySearcher],
) -> None:
    search = searcher()
    search.suggest("a")
    finish(search, "a", float("nan"))
    search.suggest("b")
    view = Ranked(search.study)
    assert [t.state.name for t in view.get_trials()] == ["FAIL", "RUNNING"]
    assert [t.state.name for t in view.trials] == ["FAIL", "RUNNING"]
    assert view.get_trials(states=(TrialState.COMPLETE,)) == []
    assert view.study_name == "sweep"


def near(params: dict[str, Any]) -> float:
    """A recipe's value: best at a rate of 0.03."""
    return -abs(math.log(params["update.training.lr"] / 0.03))


@pytest.mark.parametrize("sampler", [*NAMES, "optuna.samplers:NSGAIIISampler"])
def test_any_sampler_climbs(searcher: Callable[..., StudySearcher], sampler: str) -> None:
    """Each learns from all rungs: what it notes on trials that it drew from the ranks is there."""
    trials = 110 if "NSGA" in sampler.upper() else 36
    settings = {"sampler": sampler, "space": "update"}
    search, count = searcher(trials, **settings), 0
    while (found := search.suggest(f"t{count}")) != FINISHED:
        assert isinstance(found, dict)
        if count % 10 == 9:  # no close: the driver was killed
            search = searcher(trials, **settings)
            assert search.suggest(f"again{count}")["params"] == found["params"]  # type: ignore[index]
            finish(search, f"again{count}", near(found["params"]))
        else:
            finish(search, f"t{count}", near(found["params"]))
        count += 1
    assert count == trials
    told = search.study.get_trials(deepcopy=False)
    assert {rung_of(t) for t in told if t.value is not None} == {0, 1, 2, 3}
    noted = {name.partition(":")[0] for t in told for name in t.system_attrs}
    learned = {
        "tpe": "tpe", "gp": "gp", "cmaes": "cma",
        "nsga2": "NSGAIISampler", "optuna.samplers:NSGAIIISampler": "NSGAIIISampler",
    }  # fmt: skip
    assert learned.get(sampler, "fixed_params") in noted
    if "NSGA" in sampler.upper():
        generations = [t.system_attrs.get(f"{learned[sampler]}:generation") for t in told]
        assert generations.count(1) > 1
    if sampler == "cmaes":
        assert max(t.system_attrs.get("cma:generation", 0) for t in told) > 1


def record(number: int, state: str, **more: Any) -> TrialRecord:
    metrics = {"accuracy": 0.1 * number}
    return TrialRecord(
        trial_id=f"trial-{number:04d}", number=number, state=state, params={"lr": 0.1},
        metrics=metrics, **more,
    )  # fmt: skip


def test_finalists_come_from_the_top_and_the_baseline_from_anywhere() -> None:
    trials = [record(0, "PRUNED", rung={UNTIL: 2}), record(9, "PRUNED", rung={UNTIL: 8})]
    trials += [record(1, "COMPLETE")]
    assert [t.number for t in choose(trials, [ACCURACY], 3)] == [1]
    assert is_baseline(trials[0])
    assert not is_baseline(record(0, "PRUNED")), "stopped by a scheduler"
    assert not is_baseline(record(0, "FAIL", rung={UNTIL: 2}))
    assert trials[0].changes == {"lr": 0.1, UNTIL: 2}


def test_a_report_counts_recipes_and_not_rungs(tmp_path: Path) -> None:
    sweep = make_record(tmp_path, trials=6)
    assert recipes(sweep) == 6
    sweep.trials = [record(0, "PRUNED", rung={UNTIL: 2}), record(1, "COMPLETE")]
    assert recipes(sweep) == 1


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_trials": 3}, "--trials must be at least 4; received 3"),
        ({"base": assign(BASE, {"classify.training.epochs": 1})}, "must be at least 2"),
        ({"base": assign(BASE, {"classify.training.epochs": 4}), "lowest": 3}, "at least 5 and"),
        ({"base": assign(BASE, {UNTIL: 3})}, "received 16 and 3"),
    ],
)
def test_a_ladder_that_leads_nowhere_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ladder(**given)
    assert "\n" not in str(error.value)


def test_several_objectives_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one objective; .*received accuracy, error"):
        Ladder(BASE, [ACCURACY, ERROR], num_trials=99)


def test_a_sweep_refuses_it_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "orchestrator/sweep.py", "--storage", str(tmp_path / "runs")]
    done = subprocess.run(
        [*command, "--name", "wrong", "--scheduler", "ladder", "--space", "full"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: the scheduler 'ladder' compares by one objective" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


# --- the real thing -----------------------------------------------------------------------------


@pytest.mark.slow
def test_every_epoch_of_a_recipe_is_trained_once(
    searcher: Callable[..., StudySearcher], tmp_path: Path
) -> None:
    sets = ["classify.training.epochs=8", "update.training.epochs=1"]
    sets += ["score.threshold={known_recall: {keep: 0.8}}"]
    base = load_experiment("experiments/digits.yaml", sets)
    objective = Objective(metric="evaluate/accuracy/balanced", mode="max")
    search, store = searcher(9, base=base, objective=objective), StageStore(str(tmp_path / "runs"))
    spent: dict[str, list[int]] = {}
    for number in range(9):
        found = search.suggest(str(number))
        assert isinstance(found, dict)
        recipe = assign(base, {**found["params"], **found["rung"]})
        outcome = execute(recipe, store, Context(seed=recipe.seed))
        (use,) = (use for use in outcome.uses if use.stage == "classify")
        if not use.reused:
            trunk = str(recipe.classify.model_dump(exclude={"training"})) + str(
                recipe.classify.training.lr
            )
            trained = range(use.continued + 1, len(use.history) + 1)
            spent.setdefault(trunk, []).extend(trained)
        search.on_trial_complete(str(number), {"completed": 1.0, **outcome.metrics})
    for epochs in spent.values():
        assert epochs == list(range(1, len(epochs) + 1)), "each once, in order"
    assert max(map(len, spent.values())) == 8
    assert sum(map(len, spent.values())) < 8 * len(spent)
