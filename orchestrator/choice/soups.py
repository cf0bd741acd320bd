"""Finalists that are no trial of the search: averages of its best trials on one trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from orchestrator.records import SOUP, TrialRecord
from trainables.experiment import Experiment
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.soup import Soup
from trainables.settings import assign, canonical_json

METHOD = "rebalance.method"
MOST = 8  # members; further ones are worse and cost a fit each


def soups_of(ranked: Sequence[TrialRecord], base: Experiment) -> list[TrialRecord]:
    """Return the recipes of a greedy and a uniform soup of the best trials, as finalists.

    Members are the rebalancers of the best trials by validation that share the trunk of the best
    one of them, best first, each once; everything else is as in that trial. Fewer than two members
    make no soup. A soup has no metrics before the final round, which compares it with the others.

    Args:
        ranked: Completed trials of the search, best first by validation.
        base: Base recipe of the trials.
    """
    found = [(trial, _member(trial, base)) for trial in ranked]
    able = [(trial, member) for trial, member in found if Soup.mixes(member)]
    if not able:
        return []
    best = able[0][0]
    alike = [member for trial, member in able if _trunk(trial) == _trunk(best)]
    members = [m for place, m in enumerate(alike) if m not in alike[:place]][:MOST]
    if len(members) < 2:
        return []
    other = {name: value for name, value in best.params.items() if not name.startswith(METHOD)}
    recipe = {
        METHOD: Soup.name,
        f"{METHOD}.{Soup.name}.members": canonical_json([member.dump() for member in members]),
    }
    first = max(trial.number for trial in ranked) + 1
    return [
        TrialRecord(
            trial_id=f"{SOUP}{selection}",
            number=first + place,
            state="COMPLETE",
            params={**other, **recipe, f"{METHOD}.{Soup.name}.selection": selection},
        )
        for place, selection in enumerate(_selections())
    ]


def _selections() -> tuple[Any, ...]:
    return get_args(Soup.model_fields["selection"].annotation)


def _member(trial: TrialRecord, base: Experiment) -> Rebalancer:
    """Return the rebalancer of a trial's recipe."""
    return assign(base, trial.params).rebalance.method


def _trunk(trial: TrialRecord) -> str:
    """Return the key of the result that has the trial's trunk and the head before rebalancing."""
    return next((use.key for use in trial.stages if use.stage == "classify"), trial.trial_id)
