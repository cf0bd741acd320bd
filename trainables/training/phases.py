"""Several trainings of one model, each after the one before: from one to the next, and resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from trainables.context import Context, derive_seed
from trainables.training.checkpoints import saved_reports
from trainables.training.classify_settings import Classify

Reports = list[dict[str, float]]


class Phase(NamedTuple):
    """One of the trainings.

    ``number`` counts from 0; ``context`` has draws of its own; ``name`` is that of its checkpoints.
    """

    number: int
    settings: Classify
    context: Context
    name: str


def phases_of(settings: Classify, context: Context, name: str) -> list[Phase]:
    """Return the trainings in order; the first one draws as if it were alone.

    Args:
        settings: Of the stage, with those that follow.
        context: Of the stage.
        name: Of the first training.

    Example:
        >>> from trainables.training.classify_settings import PhaseSettings
        >>> settings = Classify(then=(PhaseSettings(epochs=2, lr=0.01),))
        >>> [phase.name for phase in phases_of(settings, Context(), "classify")]
        ['classify', 'classify-then-1']
    """
    first, *later = settings.phases()
    phases = [Phase(0, first, context, name)]
    for number, phase in enumerate(later, start=1):
        seed = derive_seed(context.seed, "classify", "then", number)
        phases.append(Phase(number, phase, replace(context, seed=seed), f"{name}-then-{number}"))
    return phases


def train_phases(
    phases: Sequence[Phase], context: Context, train: Callable[[Phase, Reports], Reports]
) -> Reports:
    """Train one after the other and return the reports of all epochs, which are counted through.

    An interrupted stage goes on with the last training that has a checkpoint: those before it are
    in its weights, and their reports, which are made again, in its checkpoint.

    Args:
        phases: The trainings.
        context: Receives the reports of trainings that need not be repeated.
        train: ``(phase, reports of the trainings before) -> reports`` of these and its own, as
            `trainables.training.loop.fit` returns them; it resumes its own checkpoint.
    """
    start, reports = _reached(phases, context)
    for epoch, report in enumerate(reports, start=1):
        if context.rank == 0:
            context.report(report, epoch)
    for phase in phases[start:]:
        reports = train(phase, reports)
    return reports


def _reached(phases: Sequence[Phase], context: Context) -> tuple[int, Reports]:
    """Return the last training that has a checkpoint, else the first, and the reports before it."""
    for phase in reversed(phases[1:]):
        reports = saved_reports(context, phase.name)
        if reports:
            before = sum(earlier.settings.training.epochs for earlier in phases[: phase.number])
            return phase.number, reports[:before]
    return 0, []
