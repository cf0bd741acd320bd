"""The rehearsal of a fit: each class plays new, for the score that tells them best; is it found?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from trainables.inference.out_of_fold import Tail
from trainables.methods.scores import Score
from trainables.rehearsal.finding import Finding
from trainables.rehearsal.outcome import Rehearsal
from trainables.rehearsal.rehearse import rehearse, rehearse_each
from trainables.rehearsal.rules import LEVELS, Rules

if TYPE_CHECKING:
    from trainables.closed_form.statistics import Samples
    from trainables.experiment import Experiment
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
    recipe: Experiment,
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

    For that score alone the pool is searched for each class.

    Args:
        method: The head that was chosen.
        recipe: Whose calibrator and clusterer are rehearsed.
        data: All training images.
        names: The classes.
        level: False alarm of the service.
        prior: Expected share of each class; ``None``: as in training.
        never_new: Classes that stay known, such as catch-all folders.
        met: Classes that the backbone was trained on before.
        folder: Of the model; finished turns are kept there.
        progress: Told how many turns are done, and how many there are; each is there twice, once
            for the scores and once for the pool.
    """
    rules = Rules(
        levels=tuple(sorted({*LEVELS, level})),
        served=level,
        prior=prior,
        never_new=never_new,
        met=met,
    )
    tails = [Tail(method, recipe.score.calibrator, Score.parse(name)) for name in SCORES]

    def first_half(done: int, total: int) -> None:
        progress(done, 2 * total)

    def second_half(done: int, total: int) -> None:
        progress(total + done, 2 * total)

    kept = folder / TURNS
    found = rehearse_each(tails, data, names, rules, progress=first_half, stored=kept)
    if not any(each.turns for each in found):
        return Rehearsed(SCORES[0], found[0])
    told = [(each.auroc().mean, -place) for place, each in enumerate(found) if each.turns]
    best = -max(told)[1]
    discover = recipe.discover
    finding = Finding(discover.clusterer, max_new=discover.max_new_clusters)
    searched = rules._replace(finding=finding)
    with_pool = rehearse(tails[best], data, names, searched, progress=second_half, stored=kept)
    return Rehearsed(SCORES[best], with_pool)
