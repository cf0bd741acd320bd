"""What a trial costs that computes nothing: a sweep beside Ray Tune and Optuna by themselves.

Goals: a trial whose stages are all stored takes at most 0.02 s, and no longer than one of Ray Tune
with a new actor per trial. Measured from the end of one trial to the end of the next, one at a
time, after the first twenty; all that a sweep does is in it (study, stage store, record, tracking,
display). ``asking`` in a row is the sampler's part: seconds per trial of asking for a recipe and
telling its value. Tune's and Optuna's trials return eight numbers.

Goal: in a default sweep (24 trials of the space `full` by ``tpe`` on the digits, nothing stored
before, finalists and promotion), asking and telling takes at most 5 % of the wall time.

    python -m benchmarks.overhead [--trials 80] [--sampler random]
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
from orchestrator.execution.cluster import connect_ray
from orchestrator.options import SweepOptions, parse_objective
from orchestrator.trials.sweep import run_sweep
from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.settings import assign

OBJECTIVES = ("evaluate/accuracy/balanced:max",)
WARM_UP = 20
MOST_SECONDS, MOST_SHARE = 0.02, 0.05
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


def sweep(folder: Path, trials: int, sampler: str) -> tuple[list[float], float]:
    """Run a sweep of cheap trials; return their ends, and the seconds of asking per trial."""
    options = SweepOptions(
        experiment=Path("experiments/digits.yaml"),
        sets=("classify.training.epochs=1", "update.training.epochs=1"),
        space="benchmarks.overhead:vary",
        name="overhead",
        trials=trials,
        sampler=sampler,
        objectives=(parse_objective(OBJECTIVES[0]),),
        storage=str(folder),
        concurrency=1,
        finalists=1,
        num_seeds=1,
        promote=False,
    )
    record = run_sweep(options, Console(quiet=True))
    path = folder / "sweeps" / "overhead" / "study.journal"
    (name,) = optuna.get_all_study_names(journal(path))
    study = optuna.load_study(study_name=name, storage=journal(path))
    return ended(study), record.asking_seconds / trials


def default_sweep(folder: Path) -> bool:
    """Run a default sweep, print the row of its asking, and return whether the goal is reached."""
    record = run_sweep(SweepOptions(name="default", storage=str(folder)), Console(quiet=True))
    baseline = f"{MOST_SHARE:.0%} of the sweep"
    times = {"ours": [record.asking_seconds], baseline: [MOST_SHARE * record.seconds]}
    share = record.asking_seconds / record.seconds
    return print_row("overhead/asking, a default sweep", baseline, times, share=share)


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--sampler", default="random", help="of the cheap trials")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    connect_ray(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ends, asking = sweep(folder / "runs", options.trials, options.sampler)
        times = {
            "ours": gaps(ends),
            "Tune": gaps(plain_tune(folder / "new", WARM_UP + 12, reuse_actors=False)),
            "Tune, actors reused": gaps(
                plain_tune(folder / "reused", options.trials, reuse_actors=True)
            ),
            "Optuna alone": gaps(plain_optuna(folder, options.trials)),
            "the limit": [MOST_SECONDS],
        }
        more = {"sampler": options.sampler, "asking": asking}
        passed = print_row("overhead/cheap trial", "the limit", times, **more)
        passed &= print_row("overhead/cheap trial", "Tune", times)
        for baseline in ("Tune, actors reused", "Optuna alone"):  # how far there is to go
            print_row("overhead/cheap trial", baseline, times)
        passed &= default_sweep(folder / "default")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
