"""120 recipes with a common backbone through the stage store, compared with 120 complete runs.

Goals: 6 rebalancers x 5 scores x 4 distillation weights on one backbone need at least 60 times less
CPU time through the stage store than as complete runs; the metrics are equal bit by bit; every
distinct stage key is computed once. A second search of the same recipes, with an empty cache in
memory, needs at least 500 times less than complete runs. The baseline, complete runs without the
store, is measured on ``--sample`` of the recipes and scaled to all of them.

    python -m benchmarks.reuse [--sample 4] [--epochs 200] [--data data/cifar10]

The ratio grows with the training time of the backbone, which ``--epochs`` sets; 200 epochs are
usual in papers. With ``--data`` (a folder with ``train`` and ``test`` of CIFAR-10) the rows are of
``experiments/cifar10_lt.yaml`` on real images, judged on the test part, with the epochs of that
recipe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.goals import judged
from orchestrator.execution.execute import execute
from orchestrator.execution.store_executor import cached_views
from orchestrator.store.result_cache import result_cache_of
from orchestrator.store.stage_store import StageStore
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import run
from trainables.settings import assign

REBALANCERS = ("none", "logit_adjustment", "tau_norm", "crt", "lws", "tde")
SCORES = ("msp", "margin", "entropy", "energy", "mahalanobis")
WEIGHTS = (0.25, 0.5, 1.0, 2.0)


class Problem(NamedTuple):
    """The recipe that all others vary, the ending of its rows' names, and its epochs."""

    base: Experiment
    ending: str
    epochs: int


def problems(data: Path | None, epochs: int) -> list[Problem]:
    """Return digits with ``epochs`` epochs and, if there are any, real images below ``data``."""
    sets = [f"classify.training.epochs={epochs}", "update.training.epochs=2"]
    found = [Problem(load_experiment("experiments/digits.yaml", sets), "", epochs)]
    if data is not None:
        sets = [f"data.source=folder:{data.resolve()}", "data.world=test"]
        base = load_experiment("experiments/cifar10_lt.yaml", sets)
        found.append(Problem(base, ", real images", base.classify.training.epochs))
    return found


def recipes(base: Experiment) -> list[Experiment]:
    """Return the 120 recipes."""
    return [
        assign(
            base,
            {
                "rebalance.method": rebalancer,
                "score.method": score,
                "update.distiller": {"double_teacher": {"old_weight": weight}},
            },
        )
        for rebalancer, score, weight in itertools.product(REBALANCERS, SCORES, WEIGHTS)
    ]


def main() -> int:
    """Measure, print the rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10: train, test, by class")
    options = parser.parse_args()
    torch.set_num_threads(1)
    passed = True
    for problem in problems(options.data, options.epochs):
        for row in measure(problem, options.sample):
            print(json.dumps(row), flush=True)
            passed &= bool(row["passed"])
    return 0 if passed else 1


def measure(problem: Problem, sample: int) -> Iterator[dict[str, Any]]:
    """Yield a row for the first search of all recipes, and one for its repetition."""
    everything = recipes(problem.base)
    views = cached_views(problem.base.data)
    run(everything[0], Context(), views=views)  # warm-up: imports and first calls are not timed
    alone: list[float] = []
    metrics: dict[int, dict[str, float]] = {}
    for number in range(0, len(everything), len(everything) // sample):
        start = time.process_time()
        metrics[number] = run(everything[number], Context(), views=views)["evaluation"].metrics
        alone.append(time.process_time() - start)
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(folder)
        start = time.process_time()
        outcomes = [execute(recipe, store, Context()) for recipe in everything]
        together = time.process_time() - start
        result_cache_of(store.backend.uri).clear()
        start = time.process_time()
        repeated = [execute(recipe, StageStore(folder), Context()) for recipe in everything]
        again = time.process_time() - start
    keys = {use.key for outcome in outcomes for use in outcome.uses}
    computed = sum(not use.reused for outcome in outcomes for use in outcome.uses)
    same = all(outcomes[number].metrics == found for number, found in metrics.items())
    asked = sum(len(outcome.uses) for outcome in outcomes)
    stored = all(use.reused for outcome in repeated for use in outcome.uses)
    equal = all(a.metrics == b.metrics for a, b in zip(outcomes, repeated, strict=True))
    for case, seconds, correct in (
        ("120 recipes", together, same and computed == len(keys)),
        ("second run", again, stored and equal),
    ):
        name = f"reuse/{case}{problem.ending}"
        baseline = f"each end to end ({problem.epochs} epochs)"
        ratio = statistics.fmean(alone) * len(everything) / seconds
        yield {
            "benchmark": name,
            "baseline": baseline,
            "cpu_seconds": {"alone_each": statistics.fmean(alone), "all": seconds},
            "stages": {"asked": asked, "distinct": len(keys), "computed": computed},
            "spread": round(max(alone) / min(alone), 2),
            "epochs": problem.epochs,
            "ratio": ratio,
            **judged(name, baseline, ratio, correct=correct),
        }


if __name__ == "__main__":
    sys.exit(main())
