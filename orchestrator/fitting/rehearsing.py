"""The rehearsal of a fit: each class plays new in its turn, for the score that tells them best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from trainables.inference.out_of_fold import Tail
from trainables.methods.scores import Score
from trainables.rehearsal.outcome import Rehearsal
from trainables.rehearsal.rehearse import rehearse
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
    best: Rehearsed | None = None
    for number, name in enumerate(SCORES):

        def count(done: int, total: int, before: int = number) -> None:
            progress(before * total + done, len(SCORES) * total)

        tail = Tail(method, calibrator, Score.parse(name))
        found = rehearse(tail, data, names, rules, progress=count, stored=folder / TURNS)
        if not found.turns:
            return Rehearsed(SCORES[0], found)
        if best is None or found.auroc().mean > best.rehearsal.auroc().mean:
            best = Rehearsed(name, found)
    assert best is not None
    return best
