"""The winner of the search space ``frozen`` on photos, as a row of `benchmarks.photos`.

The study is the sweep's own: its sampler, its journal, and the 24 trials that ``sweep`` runs by
default. All labelled classes are known (``data.world=service``), and a trial is judged by its
answers out of fold to the training images. The winner is the best trial, the base recipe among
them; the answers to the test images come with it, and no choice reads them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

TRIALS = 24
OBJECTIVE = "out_of_fold/accuracy/balanced"
SERVED = (
    "data.world=service",
    "rebalance.method=ridge",
    "score.threshold={false_alarm: {level: 0.05}}",
)


def search_frozen(
    settings: Sequence[str], folder: Path, seed: int
) -> tuple[dict[str, float], float]:
    """Return the winner's accuracy of each class on the test images, and the CPU seconds.

    Args:
        settings: Of the base recipe, with source, root and weights.
        folder: Where the study and stage results lie.
        seed: Of the recipes and of the sampler.
    """
    from orchestrator.execution.execute import RecipeResult, execute
    from orchestrator.execution.store_executor import cached_views
    from orchestrator.records import Objective
    from orchestrator.search.searcher import StudySearcher
    from orchestrator.store.stage_store import StageStore
    from orchestrator.trial_outcome import COMPLETED
    from trainables.context import Context
    from trainables.experiment import load_experiment
    from trainables.settings import assign

    start = time.process_time()
    base = load_experiment(None, [*settings, *SERVED])
    store = StageStore(str(folder / "stages"))
    searcher = StudySearcher(
        folder=folder / "study",
        space="frozen",
        base=base,
        objectives=[Objective(metric=OBJECTIVE, mode="max")],
        num_trials=TRIALS,
        seed=seed,
    )
    best: tuple[float, RecipeResult] | None = None
    for number in range(TRIALS):
        asked = searcher.suggest(str(number))
        if not isinstance(asked, dict):
            break
        outcome = execute(assign(base, asked["params"]), store, Context(seed=seed))
        searcher.on_trial_complete(str(number), {**outcome.metrics, COMPLETED: 1.0})
        value = outcome.metrics[OBJECTIVE]
        if best is None or value > best[0]:
            best = value, outcome
    searcher.close()
    assert best is not None
    names = cached_views(base.data).summary["known_class_names"]
    arrays = best[1].artifacts["evaluation"].arrays
    accuracy = dict(zip(names, arrays["class_accuracy"].tolist(), strict=True))
    return accuracy, time.process_time() - start
