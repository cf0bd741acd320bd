"""A fidelity ladder: many recipes train a little, the better half of them twice as long, and so on.

Each rung is a trial of its own through the whole pipeline, so that what is compared is the
objective itself. Its training goes on from where the rung below left it
(`orchestrator.execution.training_states`). Who is on which rung is read off the study's trials: a
ladder has no state that a kill could lose. New recipes come from any sampler, which sees the study
through `orchestrator.search.ladder_view`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.records import Objective, Scalar
from trainables.errors import ConfigError
from trainables.experiment import Experiment

REDUCTION_FACTOR = 2  # a rung costs what it adds, so that many small ones are cheap
RUNGS = 5
LOWEST = 3  # epochs; after one or two most recipes guess, and their order is chance
UNTIL = "classify.training.until"
RUNG, PROMOTED_FROM, RETRY_OF = "rung", "promoted_from", "retry_of"  # attributes in the study
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class NextTrial(Enum):
    """What comes next if it is not a promotion."""

    NEW = "a new recipe on the lowest rung"
    WAIT = "nothing until a running trial ends"


class Ladder:
    """Promotion-type asynchronous successive halving (ASHA) with the search's own objective.

    Rung ``k`` of ``K`` trains the classifier for ``epochs / eta^(K - 1 - k)`` epochs, rounded up,
    of the whole schedule; there is no rung of less than ``lowest`` epochs. A recipe is promoted as
    soon as it is among the best ``floor(n / eta)`` of the ``n`` that ended on its rung; the highest
    rung with somebody to promote comes first, and a new recipe starts where there is none. When the
    trials that are left are just enough to bring the best recipe to the top, they do that. Below
    the top, ``update.mode: full`` trains the head only.

    Args:
        base: The recipe that the search varies.
        objectives: Of the search: one.
        num_trials: Trials of the search, promotions counted.
        reduction_factor: ``eta``: one in so many goes on.
        rungs: ``K``, at most; a short training has fewer.
        lowest: Epochs that the lowest rung has at least.

    Raises:
        ConfigError: There is more than one objective, nothing to shorten, or the top is out of
            reach.

    Source: Li et al. 2020 (arXiv 1810.05934), algorithm 2, in the promotion form.

    Example:
        >>> accuracy = Objective(metric="accuracy", mode="max")
        >>> Ladder(Experiment(), [accuracy], num_trials=24).milestones  # of 30 epochs
        [4, 8, 15, 30]
        >>> longer = Experiment.model_validate({"classify": {"training": {"epochs": 200}}})
        >>> Ladder(longer, [accuracy], num_trials=24).milestones
        [13, 25, 50, 100, 200]
    """

    def __init__(
        self,
        base: Experiment,
        objectives: Sequence[Objective],
        *,
        num_trials: int,
        reduction_factor: int = REDUCTION_FACTOR,
        rungs: int = RUNGS,
        lowest: int = LOWEST,
    ) -> None:
        if len(objectives) != 1:
            raise ConfigError(
                "the scheduler 'ladder' compares by one objective; give one --objective METRIC:max "
                f"or :min; received {', '.join(o.metric for o in objectives)}"
            )
        self.maximize = objectives[0].mode == "max"
        self.factor, self.most, self.lowest = reduction_factor, rungs, lowest
        training = base.classify.training
        self.milestones = self.epochs(training.epochs)
        self.top = len(self.milestones) - 1
        if self.top == 0 or training.until:
            least = max(2, self.factor * (lowest - 1) + 1)
            raise ConfigError(
                "the scheduler 'ladder' shortens the training of the classifier: "
                f"classify.training.epochs must be at least {least} "
                f"and classify.training.until 0; received {training.epochs} and {training.until}"
            )
        if num_trials <= self.top:
            raise ConfigError(
                f"the scheduler 'ladder' has {self.top + 1} rungs, a trial each: --trials must be "
                f"at least {self.top + 1}; received {num_trials}"
            )

    def epochs(self, whole: int) -> list[int]:
        """Return the epochs of each rung for a training of ``whole`` epochs, lowest first."""
        shorter = (-(-whole // self.factor**k) for k in range(1, self.most))
        return sorted({whole, *(epochs for epochs in shorter if epochs >= self.lowest)})

    def changes(self, recipe: Experiment, rung: int) -> dict[str, Scalar]:
        """Return what shortens a recipe to a rung: nothing at the top.

        A recipe with fewer epochs than the base may lack the lowest rungs: it starts higher. One
        that can't be shortened has no rung but the top.
        """
        classify, above = recipe.classify, self.top - rung
        epochs = self.epochs(classify.training.epochs)
        if above == 0 or len(epochs) == 1 or classify.self_trainer.extra_views:
            return {}
        found: dict[str, Scalar] = {UNTIL: epochs[max(0, len(epochs) - 1 - above)]}
        if recipe.update.mode == "full":
            found["update.mode"] = "head"
        return found

    def next_trial(self, trials: Sequence[FrozenTrial], remaining: int) -> FrozenTrial | NextTrial:
        """Return the ended trial to promote next, or what to do instead.

        Args:
            trials: All trials of the study.
            remaining: Trials that are still to be asked for, 1 or more.
        """
        ended = [
            [t for t in trials if t.state in ENDED and rung_of(t) == rung and is_finite(t)]
            for rung in range(self.top + 1)
        ]
        if any(t.state is TrialState.WAITING and RETRY_OF in t.user_attrs for t in trials):
            return NextTrial.NEW  # what a kill interrupted comes first
        done = {t.user_attrs.get(PROMOTED_FROM) for t in trials}
        live = {rung_of(t) for t in trials if t.state is TrialState.RUNNING}
        highest = max(live | {rung for rung, found in enumerate(ended) if found}, default=0)
        last = remaining <= self.top - highest
        if last and highest in live:
            return NextTrial.WAIT
        for rung in [highest] if last else reversed(range(self.top)):
            good = len(ended[rung]) if last else len(ended[rung]) // self.factor
            for trial in self._ranked(ended[rung])[:good]:
                if trial.number not in done:
                    return trial
        return NextTrial.NEW

    def _ranked(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return trials of one rung, best first; of equal ones the earlier."""
        sign = -1.0 if self.maximize else 1.0
        return sorted(trials, key=lambda t: (sign * _value(t), t.number))


def rung_of(trial: FrozenTrial) -> int:
    """Return a trial's rung, 0 the lowest."""
    return int(trial.user_attrs.get(RUNG, 0))


def promoted(trial: FrozenTrial, **attributes: Any) -> FrozenTrial:
    """Return a new running trial with these attributes: the same recipe, one rung higher."""
    return create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={RUNG: rung_of(trial) + 1, PROMOTED_FROM: trial.number, **attributes},
    )


def place_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the attributes that a trial which is tried again takes over."""
    kept = {name: trial.user_attrs.get(name) for name in (RUNG, PROMOTED_FROM)}
    return {name: value for name, value in kept.items() if value is not None}


def is_finite(trial: FrozenTrial) -> bool:
    """Say whether an ended trial has a value."""
    return math.isfinite(_value(trial))


def _value(trial: FrozenTrial) -> float:
    """Return what an ended trial of a single objective reached."""
    return math.nan if trial.value is None else float(trial.value)
