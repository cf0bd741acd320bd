"""Stage reuse: 120 recipes that differ downstream, through the store and each on its own.

Goals P1 and P2: 6 rebalancers x 5 scores x 4 distillation weights on one trunk cost at least 60
times less CPU through the stage store than end to end, with the same metrics, and the number of
computed stages is the number of distinct keys. The rival, every recipe end to end, is measured on
``--sample`` of the recipes and scaled to all of them; their metrics must be equal bit for bit.

    python -m benchmarks.reuse [--sample 4] [--epochs 200]

The ratio grows with the cost of the trunk: ``--epochs`` says how long it trains, 200 as in papers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time

import torch

from orchestrator.execute import cached_views, execute
from orchestrator.store import StageStore
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import run
from trainables.settings import assign

REBALANCERS = ("none", "logit_adjustment", "tau_norm", "crt", "lws", "tde")
SCORES = ("least_confident", "margin", "entropy", "energy", "mahalanobis")
WEIGHTS = (0.25, 0.5, 1.0, 2.0)
GOAL = 60.0


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
    """Measure, print one row, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_experiment(
        "experiments/digits.yaml",
        [f"classify.training.epochs={options.epochs}", "update.training.epochs=2"],
    )
    everything = recipes(base)
    views = cached_views(base.data)
    run(everything[0], Context(), views=views)  # imports and first calls are nobody's cost
    alone: list[float] = []
    metrics: dict[int, dict[str, float]] = {}
    for number in range(0, len(everything), len(everything) // options.sample):
        start = time.process_time()
        metrics[number] = run(everything[number], Context(), views=views)["evaluation"].metrics
        alone.append(time.process_time() - start)
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(folder)
        start = time.process_time()
        outcomes = [execute(recipe, store, Context()) for recipe in everything]
        together = time.process_time() - start
    keys = {use.key for outcome in outcomes for use in outcome.uses}
    computed = sum(not use.reused for outcome in outcomes for use in outcome.uses)
    same = all(outcomes[number].metrics == found for number, found in metrics.items())
    ratio = statistics.fmean(alone) * len(everything) / together
    row = {
        "benchmark": "reuse/120 recipes",
        "rival": f"each end to end ({options.epochs} epochs)",
        "cpu_seconds": {"alone_each": statistics.fmean(alone), "together_all": together},
        "stages": {"asked": 8 * len(everything), "distinct": len(keys), "computed": computed},
        "metrics_equal": same,
        "spread": round(max(alone) / min(alone), 2),
        "epochs": options.epochs,
        "ratio": ratio,
        "goal": GOAL,
        "passed": ratio >= GOAL and same and computed == len(keys),
    }
    print(json.dumps(row))
    return 0 if row["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
