"""Several trainings of one model, each after the one before: from one to the next, and resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from trainables.checkpoints import saved_reports
from trainables.context import Context, derive_seed
from trainables.experiment import Classify

Reports = list[dict[str, float]]


class Turn(NamedTuple):
    """One of the trainings.

    ``number`` counts from 0; ``context`` has draws of its own; ``name`` is that of its checkpoints.
    """

    number: int
    settings: Classify
    context: Context
    name: str


def turns_of(settings: Classify, context: Context, name: str) -> list[Turn]:
    """Return the trainings in order; the first one draws as if it were alone.

    Args:
        settings: Of the stage, with those that follow.
        context: Of the stage.
        name: Of the first training.

    Example:
        >>> from trainables.experiment import FollowUp
        >>> settings = Classify(then=(FollowUp(epochs=2, lr=0.01),))
        >>> [turn.name for turn in turns_of(settings, Context(), "classify")]
        ['classify', 'classify-then-1']
    """
    first, *later = settings.phases()
    turns = [Turn(0, first, context, name)]
    for number, phase in enumerate(later, start=1):
        seed = derive_seed(context.seed, "classify", "then", number)
        turns.append(Turn(number, phase, replace(context, seed=seed), f"{name}-then-{number}"))
    return turns


def train_in_turn(
    turns: Sequence[Turn], context: Context, train: Callable[[Turn, Reports], Reports]
) -> Reports:
    """Train one after the other and return the reports of all epochs, which are counted through.

    An interrupted stage goes on with the last training that has a checkpoint: those before it are
    in its weights, and their reports, which are made again, in its checkpoint.

    Args:
        turns: The trainings.
        context: Receives the reports of trainings that need not be repeated.
        train: ``(turn, reports of the trainings before) -> reports`` of these and its own, as
            `trainables.loop.fit` returns them; it resumes its own checkpoint.
    """
    start, reports = _reached(turns, context)
    for epoch, report in enumerate(reports, start=1):
        if context.rank == 0:
            context.report(report, epoch)
    for turn in turns[start:]:
        reports = train(turn, reports)
    return reports


def _reached(turns: Sequence[Turn], context: Context) -> tuple[int, Reports]:
    """Return the last training that has a checkpoint, else the first, and the reports before it."""
    for turn in reversed(turns[1:]):
        reports = saved_reports(context, turn.name)
        if reports:
            before = sum(earlier.settings.training.epochs for earlier in turns[: turn.number])
            return turn.number, reports[:before]
    return 0, []
