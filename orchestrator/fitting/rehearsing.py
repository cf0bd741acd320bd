"""The rehearsal of a fit: each class plays new in its turn, for the score that tells them best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from trainables.inference.out_of_fold import Tail
from trainables.methods.scores import Score
from trainables.rehearsal.outcome import Rehearsal
from trainables.rehearsal.rehearse import rehearse_each
from trainables.rehearsal.rules import LEVELS, Rules

if TYPE_CHECKING:
    from trainables.closed_form.statistics import Samples
    from trainables.methods.calibrators import Calibrator
    from trainables.methods.rebalancers import Rebalancer

FILE, TURNS = "rehearsal.json", "rehearsal"
SCORES = ("msp", "relative_mahalanobis")  # the first one wins a tie

Progress = Callable[[int, int], None]


class Rehearsed(NamedTuple):
    """The score that tells new classes best, and its rehearsal."""

    score: str
    rehearsal: Rehearsal


def rehearse_scores(
    method: Rebalancer,
    calibrator: Calibrator,
    data: Samples,
    names: Sequence[str],
    *,
    level: float,
    prior: Tensor | None,
    never_new: frozenset[str],
    met: frozenset[str],
    folder: Path,
    progress: Progress,
) -> Rehearsed:
    """Rehearse a recipe with each score, and return the one with the best mean AUROC over classes.

    Args:
        method: The head that was chosen.
        calibrator: Of its logits.
        data: All training images.
        names: The classes.
        level: False alarm of the service.
        prior: Expected share of each class; ``None``: as in training.
        never_new: Classes that stay known, such as catch-all folders.
        met: Classes that the backbone was trained on before.
        folder: Of the model; finished turns are kept there.
        progress: Told how many turns are done, and how many there are.
    """
    rules = Rules(
        levels=tuple(sorted({*LEVELS, level})),
        served=level,
        prior=prior,
        never_new=never_new,
        met=met,
    )
    tails = [Tail(method, calibrator, Score.parse(name)) for name in SCORES]
    found = rehearse_each(tails, data, names, rules, progress=progress, stored=folder / TURNS)
    if not any(each.turns for each in found):
        return Rehearsed(SCORES[0], found[0])
    told = [(each.auroc().mean, -place) for place, each in enumerate(found) if each.turns]
    best = -max(told)[1]
    return Rehearsed(SCORES[best], found[best])
