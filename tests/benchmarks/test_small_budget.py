"""The benchmark of accuracy for a budget: what it counts, and when a goal is met."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import small_budget
from benchmarks.small_budget import BASELINE, Result, epochs_for, measure, report
from trainables.data.views import Views, build_views
from trainables.experiment import Experiment, load_experiment


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Views]:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 4)):
        for label in range(3):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (16, 16, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    sets = [f"data.source=folder:{root}", f"data.root={root}", "classify.training.epochs=2"]
    sets += ["data.profile={exponential: {imbalance_factor: 4}}", "classify.training.batch_size=8"]
    recipe = load_experiment(small_budget.RECIPE, sets)
    return recipe, build_views(recipe.data)


def test_a_recipe_is_timed_and_tested(small: tuple[Experiment, Views]) -> None:
    result = measure(*small)
    assert result.seconds > 0
    assert 0 <= result.accuracy <= 100


def test_the_baseline_gets_at_least_the_budget_and_at_least_one_epoch(
    small: tuple[Experiment, Views],
) -> None:
    assert epochs_for(*small, budget=1e-9) == 1
    assert epochs_for(*small, budget=1e9) > 1000


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("seconds", "accuracy", "baseline", "met"),
    [
        (100.0, 62.0, 30.0, [True, True]),
        (121.0, 62.0, 30.0, [False, True]),  # over the budget
        (100.0, 59.9, 30.0, [False, True]),  # not accurate enough
        (100.0, 62.0, 50.0, [True, False]),  # not far enough ahead
    ],
)
def test_goals_are_met_only_in_time_and_accurate(
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    accuracy: float,
    baseline: float,
    met: list[bool],
) -> None:
    ours, other = [Result(seconds, accuracy)] * 3, [Result(120.0, baseline)] * 3
    assert report({"ours": ours, BASELINE: other}, budget=120.0) == all(met)
    assert [row["passed"] for row in rows(capsys)] == met


def test_without_images_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["small_budget"])
    assert small_budget.main() == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "not measured; give --data" in said.err
