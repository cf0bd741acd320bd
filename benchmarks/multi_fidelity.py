"""Multi-fidelity: the ladder beside random search, and beside a ladder that begins anew each time.

Goal P15: at equally many trained epochs the ladder's best recipe is at least random search's best
in 4 of 5 seeds, and going on from the rung below takes at least 1.5 times fewer epochs than to
train every rung from its start, as promotion without checkpoints does. Epochs of the trunk are
counted at the stage store, not timed; what another trial trained already counts for neither. The
best is by validation, among recipes that were trained to the end.

    python -m benchmarks.multi_fidelity [--seeds 5] [--budget 48] [--epochs 8]

``--budget`` is how many epochs each side may train per seed, 6 whole trainings by default. CPU
seconds are in the rows: on images as small as digits, what comes after the training costs each
trial as much as a few epochs, so that many short trainings take more of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import optuna
import torch

from orchestrator.execute import execute
from orchestrator.ladder import Ladder
from orchestrator.records import Objective
from orchestrator.search import StudySearcher
from orchestrator.store import StageStore
from search_spaces.long_tail import choose_training
from search_spaces.pick import FromTrial, Pick
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

OBJECTIVE = Objective(metric="evaluate/accuracy/balanced", mode="max")
SPACE = "benchmarks.multi_fidelity:vary"
GOAL = 1.5
SEEDS_TO_WIN = 0.8  # 4 of 5


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Vary the training of the classifier alone: every other recipe has a trunk of its own."""
    choose_training(pick, base)
    return assign(base, pick.changes)


class Run(NamedTuple):
    """What a recipe reached, the epochs trained for it, and those that a new start would take."""

    value: float
    trained: int
    from_start: int


class Search(NamedTuple):
    """One side of one seed: the best whole training, and what all trials together took."""

    best: float
    trials: int
    trained: int
    from_start: int
    cpu_seconds: float


def run(recipe: Experiment, store: StageStore) -> Run:
    """Run a recipe through the store and count its trunk's epochs."""
    outcome = execute(recipe, store, Context(seed=recipe.seed))
    (use,) = (use for use in outcome.uses if use.stage == "classify")
    epochs = len(use.history)
    if use.reused:
        return Run(outcome.metrics[OBJECTIVE.metric], 0, 0)
    return Run(outcome.metrics[OBJECTIVE.metric], epochs - use.continued, epochs)


def climb(base: Experiment, budget: int, seed: int, folder: Path) -> Search:
    """Search by the ladder until the budget is trained."""
    store, most = StageStore(str(folder / "ladder")), 50 * budget
    searcher = StudySearcher(
        folder=folder / "study",
        space=SPACE,
        base=base,
        objectives=[OBJECTIVE],
        num_trials=most,
        seed=seed,
        ladder=Ladder(base, [OBJECTIVE], num_trials=most),
    )
    runs: list[Run] = []
    whole: list[float] = []
    start = time.process_time()
    while sum(found.trained for found in runs) < budget:
        name = str(len(runs))
        suggestion = searcher.suggest(name)
        if not isinstance(suggestion, dict):
            break
        found = run(assign(base, {**suggestion["params"], **suggestion["rung"]}), store)
        searcher.on_trial_complete(name, {"completed": 1.0, OBJECTIVE.metric: found.value})
        runs.append(found)
        if not suggestion["rung"]:
            whole.append(found.value)
    searcher.close()
    return summary(runs, whole, time.process_time() - start)


def draw(base: Experiment, budget: int, seed: int, folder: Path) -> Search:
    """Search by random recipes, all trained to the end, until the budget is trained."""
    store = StageStore(str(folder / "random"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    start = time.process_time()
    runs = [run(base, store)]  # both sides try the base first
    while sum(found.trained for found in runs) < budget:
        pick = Pick(FromTrial(study.ask()))
        runs.append(run(vary(pick, base), store))
    return summary(runs, [found.value for found in runs], time.process_time() - start)


def summary(runs: list[Run], whole: list[float], cpu_seconds: float) -> Search:
    """Return one side's result."""
    return Search(
        best=max(whole, default=0.0),
        trials=len(runs),
        trained=sum(found.trained for found in runs),
        from_start=sum(found.from_start for found in runs),
        cpu_seconds=cpu_seconds,
    )


def main() -> int:
    """Measure, print a row per goal, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sets = [f"classify.training.epochs={options.epochs}", "update.training.epochs=1"]
    base = load_experiment("experiments/digits.yaml", sets)
    ladder, random = [], []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            random.append(draw(base, options.budget, seed, Path(folder)))
            ladder.append(climb(base, options.budget, seed, Path(folder)))
        print(f"seed {seed}: {ladder[-1]} beside {random[-1]}", file=sys.stderr, flush=True)
    wins = sum(ours.best >= theirs.best for ours, theirs in zip(ladder, random, strict=True))
    ratios = [side.from_start / side.trained for side in ladder]
    details = {
        "epochs": options.epochs,
        "budget": options.budget,
        "ladder": [side._asdict() for side in ladder],
        "random": [side._asdict() for side in random],
    }
    share = wins / options.seeds
    rows = [
        {
            "benchmark": "multi_fidelity/seeds won at equal epochs",
            "rival": "random search",
            "ratio": share,
            "goal": SEEDS_TO_WIN,
            "passed": share >= SEEDS_TO_WIN,
            **details,
        },
        {
            "benchmark": "multi_fidelity/epochs",
            "rival": "every rung from its start",
            "ratio": statistics.median(ratios),
            "spread": round(max(ratios) / min(ratios), 2),
            "goal": GOAL,
            "passed": statistics.median(ratios) >= GOAL,
        },
    ]
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
