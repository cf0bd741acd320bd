"""Which trials become finalists, and whether all that was asked of a sweep is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.records import Objective, SweepRecord, TrialRecord

if TYPE_CHECKING:
    from orchestrator.options import SweepOptions


def choose(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], count: int
) -> list[TrialRecord]:
    """Return the ``count`` best completed trials by validation objectives, best first.

    With several objectives, trials are ordered by the sum of their ranks, one rank per objective.
    Of trials with the same model and scorer, only the best is returned. Trials without a value of
    an objective, such as one that the sweep was not started with, are left out.
    """
    names = {objective.metric for objective in objectives}
    complete = [t for t in trials if t.state == "COMPLETE" and names <= t.metrics.keys()]
    total = dict.fromkeys((t.trial_id for t in complete), 0.0)
    for objective in objectives:
        sign = -1.0 if objective.mode == "max" else 1.0
        values = {t.trial_id: sign * t.metrics[objective.metric] for t in complete}
        ordered = sorted(set(values.values()))
        for trial_id, value in values.items():
            total[trial_id] += ordered.index(value)
    ranked = sorted(complete, key=lambda t: (total[t.trial_id], t.number))
    chosen: list[TrialRecord] = []
    seen: set[str] = set()
    for trial in ranked:
        # the update stage's key covers all earlier stages, so equal keys mean equal models
        model = next((use.key for use in trial.stages if use.stage == "update"), trial.trial_id)
        score = next((use.key for use in trial.stages if use.stage == "score"), "")
        if model + score not in seen:
            seen.add(model + score)
            chosen.append(trial)
    return chosen[:count]


def is_baseline(trial: TrialRecord) -> bool:
    """Return True if a trial is the first of the study, which runs the base recipe, and succeeded.

    On a ladder the first trial runs the lowest rung; as a finalist it trains for all epochs.
    """
    ended = trial.state == "COMPLETE" or (trial.state == "PRUNED" and bool(trial.rung))
    return trial.number == 0 and ended


def finalists_of(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], count: int
) -> list[TrialRecord]:
    """Return the best trials by validation and the base recipe; empty if no trial completed."""
    chosen = choose(trials, objectives, count)
    tested = [trial.params for trial in chosen]
    return chosen + [t for t in trials if is_baseline(t) and t.params not in tested]


def asked_finalists(
    record: SweepRecord, objectives: Sequence[Objective], options: SweepOptions
) -> list[TrialRecord]:
    """Return all finalists that were asked for: `finalists_of`, then soups if they are wanted.

    Soups come last, so that one that is only as good as a trial is not chosen.
    """
    found = finalists_of(record.trials, objectives, options.finalists)
    if options.soup and found:
        from orchestrator.choice.soups import soups_of
        from trainables.experiment import Experiment
        from trainables.settings import build

        ranked = choose(record.trials, objectives, len(record.trials))
        found += soups_of(ranked, build(Experiment, record.experiment))
    return found


def final_round_is_done(
    record: SweepRecord, objectives: Sequence[Objective], options: SweepOptions
) -> bool:
    """Say whether every finalist has run, or failed, on every seed that was asked for."""
    wanted = {trial.trial_id for trial in asked_finalists(record, objectives, options)}
    failed = [f for f in record.failures if f.trial_id is not None]
    ended = {f.trial_id for f in record.finalists} | {f.trial_id for f in failed}
    seeds = {seed for f in record.finalists for seed in f.seeds} | {f.seed for f in failed}
    return wanted == ended and (not wanted or len(seeds - {None}) == options.num_seeds)


def is_complete(
    record: SweepRecord, objectives: Sequence[Objective], options: SweepOptions
) -> bool:
    """Say whether all that was asked for is in the record: trials, finalists on seeds, verdict.

    A trial that failed counts as tried, and a finalist that failed as tested: the same recipe on
    the same seed would fail again.
    """
    return (
        sum(trial.state != "RUNNING" for trial in record.trials) >= options.trials
        and final_round_is_done(record, objectives, options)
        and (record.promotion is not None or not options.promote or not record.finalists)
    )
