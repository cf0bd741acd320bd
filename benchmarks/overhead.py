"""What a trial costs that computes nothing: a sweep beside Ray Tune and Optuna by themselves.

Goals (P8): a trial whose stages are all stored takes at most 0.02 s, and no longer than one of Ray
Tune with a new actor per trial. Measured from the end of one
trial to the end of the next, one at a time, after the first twenty; all that a sweep does is in it
(study, stage store, record, tracking, display). Tune's and Optuna's trials return eight numbers.

    python -m benchmarks.overhead [--trials 80]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from rich.console import Console

from benchmarks import print_row
from orchestrator.cluster import connect_ray
from orchestrator.options import SweepOptions
from orchestrator.sweep import run_sweep
from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.settings import assign

OBJECTIVES = ("evaluate/accuracy/balanced:max",)
WARM_UP = 20
MOST_SECONDS = 0.02
METRICS = 8


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return one of two recipes: after both, nothing is left to compute."""
    pick.method_only("rebalance.method", base.rebalance.method, ("none", "logit_adjustment"))
    return assign(base, pick.changes)


def gaps(ends: Iterable[float]) -> list[float]:
    """Return the seconds between the ends of trials, without the first ones."""
    ordered = sorted(ends)[WARM_UP:]
    return [later - earlier for earlier, later in itertools.pairwise(ordered)]


def journal(path: Path) -> JournalStorage:
    """Open a study's journal."""
    return JournalStorage(JournalFileBackend(str(path)))


def ended(study: optuna.Study) -> list[float]:
    """Return when a study's trials ended."""
    return [t.datetime_complete.timestamp() for t in study.get_trials() if t.datetime_complete]


def sweep(folder: Path, trials: int) -> list[float]:
    """Run a sweep and return its trials' ends."""
    options = SweepOptions(
        experiment=Path("experiments/digits.yaml"),
        sets=("classify.training.epochs=1", "update.training.epochs=1"),
        study="benchmarks.overhead:vary",
        name="overhead",
        trials=trials,
        storage=str(folder),
        concurrency=1,
        finalists=1,
        seeds=1,
        promote=False,
    )
    run_sweep(options, Console(quiet=True))
    path = folder / "sweeps" / "overhead" / "study.journal"
    (name,) = optuna.get_all_study_names(journal(path))
    return ended(optuna.load_study(study_name=name, storage=journal(path)))


def trivial(config: dict[str, float]) -> None:
    """Report a few numbers and when."""
    tune.report({**{f"m{n}": config["x"] for n in range(METRICS)}, "end": time.time()})


def plain_tune(folder: Path, trials: int, *, reuse_actors: bool) -> list[float]:
    """Run trials by Ray Tune alone and return their ends."""
    results = tune.Tuner(
        tune.with_resources(trivial, {"cpu": 1}),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            num_samples=trials, max_concurrent_trials=1, reuse_actors=reuse_actors
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    return [result.metrics["end"] for result in results if result.metrics]


def plain_optuna(folder: Path, trials: int) -> list[float]:
    """Run trials by Optuna alone, in this process, and return their ends."""
    study = optuna.create_study(storage=journal(folder / "optuna.journal"))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    return ended(study)


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=80)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    connect_ray(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = {
            "ours": gaps(sweep(folder / "runs", options.trials)),
            "Tune": gaps(plain_tune(folder / "new", WARM_UP + 12, reuse_actors=False)),
            "Tune, actors reused": gaps(
                plain_tune(folder / "reused", options.trials, reuse_actors=True)
            ),
            "Optuna alone": gaps(plain_optuna(folder, options.trials)),
            "the limit": [MOST_SECONDS],
        }
    passed = print_row("overhead/cheap trial", "the limit", times, goal=1.0)
    passed &= print_row("overhead/cheap trial", "Tune", times, goal=1.0)
    for rival in ("Tune, actors reused", "Optuna alone"):  # how far there is to go
        print_row("overhead/cheap trial", rival, times, goal=0.0)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
