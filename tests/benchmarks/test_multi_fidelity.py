"""The comparison of two searches: who is counted within which budget."""

from pathlib import Path

import pytest

import benchmarks.multi_fidelity as bench
from benchmarks.multi_fidelity import OBJECTIVE, PROBLEM, Run, Search, climb, draw, won
from orchestrator.search.ladder import Ladder
from trainables.experiment import Experiment, load_experiment


@pytest.fixture(scope="module")
def base() -> Experiment:
    return load_experiment("experiments/digits.yaml", PROBLEM)


def budget(cpu_seconds: float, trained: int) -> Search:
    return Search(0.0, 0.0, 0, trained, 0, cpu_seconds)


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float], seconds: float) -> list[str]:
    """Let trainings take these CPU seconds and reach these values; return the recipes tried."""
    clock, tried, left = [0.0], list[str](), iter(values)

    def run(recipe: Experiment, store: object) -> Run:
        clock[0] += seconds
        tried.append(recipe.model_dump_json())
        epochs = recipe.classify.training.until or recipe.classify.training.epochs
        return Run(next(left), epochs, epochs)

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr("benchmarks.multi_fidelity.time.process_time", lambda: clock[0])
    return tried


def test_the_training_that_oversteps_a_budget_counts_for_random_search(
    base: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = scripted(monkeypatch, [0.5, float("nan"), 0.6, 0.7, 0.9], seconds=10.0)
    found = draw(base, budget(cpu_seconds=25.0, trained=4 * 48 - 1), 0, tmp_path)
    assert (found.best_by_cpu, found.best_by_epochs) == (0.6, 0.7)
    assert (found.trials, found.trained, found.cpu_seconds) == (4, 4 * 48, 40.0)
    assert tried[0] == base.model_dump_json()
    assert len(set(tried)) == 4


def test_only_whole_trainings_of_the_ladder_are_compared(
    base: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = [0.99, 0.98, 0.97, 0.96, 0.4]  # the fifth trial is the first at the top
    tried = scripted(monkeypatch, values, seconds=1.0)
    found = climb(base, 5, 0, tmp_path)
    assert (found.best_by_cpu, found.trials, len(tried)) == (0.4, 5, 5)
    assert found.trained == 3 + 6 + 12 + 24 + 48


def test_the_problem_has_five_rungs_and_enough_images_to_rank_by(base: Experiment) -> None:
    assert Ladder(base, [OBJECTIVE], num_trials=31).milestones == [3, 6, 12, 24, 48]
    assert base.data.validation_per_class // 2 == 30


def test_four_of_five_seeds_are_enough() -> None:
    assert won("epochs", [True] * 4 + [False])["passed"]
    assert not won("epochs", [True] * 3 + [False] * 2)["passed"]
