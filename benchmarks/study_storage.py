"""The search loop: what asking for a recipe and telling its value costs per trial, by sampler.

Goal: with the samplers that draw all parameters (``tpe``, ``random``), asking and telling costs at
most 3 ms per trial more than Optuna alone with the same sampler, space and kind of storage (a
journal file). What it may cost in all is a share of a sweep: see `benchmarks.overhead`. Both sides
draw recipes of a search space and tell values that are computed from them; at the end Optuna's own
reader must find every trial and value in our journal.

    python -m benchmarks.study_storage [--trials 500] [--samplers tpe random] [--space full]

CPU seconds per trial at 24, 100 and 500 trials: the median of the ten trials up to there. Both
sides take turns, trial by trial. ``seconds`` is the sum over all trials up to there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import search_spaces
from benchmarks import print_row
from orchestrator.options import parse_objective
from orchestrator.records import Objective
from orchestrator.search.sampler_names import DRAW_ALL
from orchestrator.search.samplers import plan_sampler
from orchestrator.search.searcher import StudySearcher
from search_spaces.pick import FromTrial, Pick
from trainables.experiment import Experiment, load_experiment

BASE = Path("experiments/digits.yaml")
MARKS = (24, 100, 500)
WINDOW = 10
MOST_ADDED = 0.003
ALONE: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
    "tpe": lambda: optuna.samplers.TPESampler(
        multivariate=True, group=True, constant_liar=True, seed=0
    ),
    "random": lambda: optuna.samplers.RandomSampler(seed=0),
}


def scores(params: dict[str, object], objectives: list[Objective]) -> dict[str, float]:
    """Return values between 0 and 1 that are the same for the same recipe."""
    text = repr(sorted(params.items()))
    return {o.metric: zlib.crc32(f"{o.metric}{text}".encode()) / 2**32 for o in objectives}


Step = Callable[[int], None]  # asks for a trial and tells its values


def timed(trials: int, sides: dict[str, Step]) -> dict[str, list[float]]:
    """Return the CPU seconds of each step of each side."""
    costs: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(trials):
        for name, step in sides.items():
            start = time.process_time()
            step(number)
            costs[name].append(time.process_time() - start)
    return costs


def journal(path: Path) -> JournalStorage:
    """Open a journal the way Optuna does."""
    return JournalStorage(JournalFileBackend(str(path)))


def ours(
    folder: Path, study: str, base: Experiment, trials: int, sampler: str
) -> tuple[Step, Callable[[], bool]]:
    """Return a step of our searcher, and what says whether Optuna reads every trial and value."""
    objectives = [parse_objective(text) for text in search_spaces.objectives(study)]
    names = [objective.metric for objective in objectives]
    searcher = StudySearcher(
        folder=folder,
        space=study,
        base=base,
        objectives=objectives,
        num_trials=trials,
        sampler=plan_sampler(sampler, space=study, base=base, objectives=names),
    )
    told: dict[int, list[float]] = {}

    def step(number: int) -> None:
        suggestion = searcher.suggest(f"ray{number}")
        assert isinstance(suggestion, dict)
        values = scores(suggestion["params"], objectives)
        told[suggestion["trial_number"]] = [*values.values()]
        result = {**values, "completed": 1.0, "epoch": 1, "stage_keys": ["a", "b"]}
        searcher.on_trial_complete(f"ray{number}", result)

    def readable() -> bool:
        searcher.close()
        name = searcher.manifest.name
        read = optuna.load_study(study_name=name, storage=journal(folder / "study.journal"))
        return told == {t.number: t.values for t in read.get_trials()}

    return step, readable


def alone(folder: Path, study: str, base: Experiment, sampler: str) -> Step:
    """Return a step of Optuna alone over the same space."""
    folder.mkdir(parents=True)
    vary = search_spaces.load(study)
    objectives = [parse_objective(text) for text in search_spaces.objectives(study)]
    opened = optuna.create_study(
        storage=journal(folder / "study.journal"),
        sampler=ALONE[sampler](),
        directions=["maximize" if o.mode == "max" else "minimize" for o in objectives],
    )

    def step(_: int) -> None:
        trial = opened.ask()
        pick = Pick(FromTrial(trial, {}))
        vary(pick, base)
        opened.tell(trial, [*scores(dict(pick.changes), objectives).values()])

    return step


def rows(sampler: str, costs: dict[str, list[float]], *, read: bool) -> bool:
    """Print a sampler's rows and return whether the goal is reached."""
    passed, rival = True, "Optuna alone, and 3 ms"
    for mark in (mark for mark in MARKS if mark <= len(costs["ours"])):
        case, seconds = f"study_storage/{sampler}, {mark} trials", sum(costs["ours"][:mark])
        times = {name: found[mark - WINDOW : mark] for name, found in costs.items()}
        if sampler not in ALONE:
            median = statistics.median(times["ours"])
            print(json.dumps({"benchmark": case, "medians": {"ours": median}, "seconds": seconds}))
            continue
        times[rival] = [statistics.median(times["Optuna alone"]) + MOST_ADDED]
        passed &= print_row(case, rival, times, correct=read, seconds=seconds)
    return passed


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--samplers", nargs="+", default=[*DRAW_ALL])
    parser.add_argument("--space", default="full")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    base, passed = load_experiment(BASE, ()), True
    with tempfile.TemporaryDirectory() as name:
        for sampler in options.samplers:
            folder = Path(name) / sampler.replace("/", "-")
            step, readable = ours(folder / "ours", options.space, base, options.trials, sampler)
            sides = {"ours": step}
            if sampler in ALONE:
                sides["Optuna alone"] = alone(folder / "alone", options.space, base, sampler)
            costs = timed(options.trials, sides)
            read = readable()
            passed &= rows(sampler, costs, read=read) and read
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
