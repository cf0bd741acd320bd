"""The rehearsal of a fit: each class plays new, for the score that tells them best; is it found?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from trainables.inference.out_of_fold import Tail
from trainables.methods.scores import Score
from trainables.rehearsal.finding import Finding
from trainables.rehearsal.outcome import Rehearsal, Turn
from trainables.rehearsal.rehearse import rehearse, rehearse_each
from trainables.rehearsal.rules import LEVELS, Rules
from trainables.rehearsal.turns import MOST_TURNS

if TYPE_CHECKING:
    from trainables.closed_form.statistics import Samples
    from trainables.experiment import Experiment
    from trainables.methods.rebalancers import Rebalancer

FILE, TURNS = "rehearsal.json", "rehearsal"
NEIGHBORS = 2  # of the classes most like it that are new together with a class
# Mean AUROC over classes that play new, and share that is noticed at 5 %, by frozen features: two
# classes known (12 worlds) msp .80, .36, knn .93, .65; 12 classes .82, .25 and .84, .35; 20 classes
# with a long tail (two draws) .83, .28 and .82, .28. relative_mahalanobis notices less (.12 to .18)
# and takes four times as long, but does not compare images with each other.
SCORES = ("msp", {"knn": {"k": 5}})
OF_MANY = ("msp", "relative_mahalanobis")
MOST_COMPARED = 6000  # training images that knn compares with each other in every turn

Progress = Callable[[int, int], None]


class Rehearsed(NamedTuple):
    """The score that tells new classes best, and its rehearsal."""

    score: Score
    rehearsal: Rehearsal


def scores_for(images: int) -> list[Score]:
    """Return the scores that are rehearsed with so many training images; the first wins a tie.

    Example:
        >>> [score.name for score in scores_for(100)], [score.name for score in scores_for(10**5)]
        (['msp', 'knn'], ['msp', 'relative_mahalanobis'])
    """
    return [Score.parse(given) for given in (SCORES if images <= MOST_COMPARED else OF_MANY)]


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

    For that score alone the pool is searched, and for one that is best without some class: what is
    told of a class is told by the score that the other classes chose (see `choose_score`). Each
    class plays new once more together with the two most like it, which as known classes catch its
    images; above 100 classes, where folds play, it does not.

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
        progress: Told how many turns are done, and how many there are; each is there three times:
            for the scores, for the pool (of each score whose pool is searched), and with the
            classes that are most like it.
    """
    rules = Rules(
        levels=tuple(sorted({*LEVELS, level})),
        served=level,
        prior=prior,
        never_new=never_new,
        met=met,
    )
    scores = scores_for(len(data.labels))
    tails = [Tail(method, recipe.score.calibrator, score) for score in scores]
    plays = _Plays(tails, data, names, folder / TURNS)
    neighbors = NEIGHBORS if len(names) <= MOST_TURNS else 0
    more = 1 if neighbors else 0  # parts of the work beside the scores and their pools
    found = plays.each(range(len(tails)), rules, _part(progress, 0, 2 + more))
    if not any(each.turns for each in found):
        return Rehearsed(scores[0], found[0])
    best, of_class = choose_score([each.turns for each in found])
    places = [best, *sorted({*of_class.values()} - {best})]
    parts = 1 + len(places) + more
    discover = recipe.discover
    finding = Finding(discover.clusterer, max_new=discover.max_new_clusters)
    searched = {
        place: plays.pool(place, rules._replace(finding=finding), _part(progress, before, parts))
        for before, place in enumerate(places, 1)
    }
    beside: dict[int, list[Turn]] = {best: []}
    if neighbors:
        told = _second_half(_part(progress, parts - 1, parts))
        each = plays.each(places, rules._replace(neighbors=neighbors), told)
        beside = {place: own.beside for place, own in zip(places, each, strict=True)}
    turns = _by_score({place: own.turns for place, own in searched.items()}, best, of_class)
    beside_of = _by_score(beside, best, of_class)
    return Rehearsed(scores[best], searched[best]._replace(turns=turns, beside=beside_of))


class _Plays(NamedTuple):
    """What a rehearsal plays: the tail of each score, images, classes, and where turns are kept."""

    tails: Sequence[Tail]
    data: Samples
    names: Sequence[str]
    stored: Path

    def each(self, places: Sequence[int], rules: Rules, progress: Progress) -> list[Rehearsal]:
        """Return the rehearsal of some of the scores, without a pool."""
        tails = [self.tails[place] for place in places]
        return rehearse_each(
            tails, self.data, self.names, rules, progress=progress, stored=self.stored
        )

    def pool(self, place: int, rules: Rules, progress: Progress) -> Rehearsal:
        """Return the rehearsal of one score, with its pool searched."""
        return rehearse(
            self.tails[place], self.data, self.names, rules, progress=progress, stored=self.stored
        )


def _part(progress: Progress, place: int, parts: int) -> Progress:
    """Return what is told of one of several equal parts of the work."""
    return lambda done, total: progress(place * total + done, parts * total)


def _second_half(progress: Progress) -> Progress:
    """Return what tells of the second half alone: in the first, turns of a class alone are read."""

    def told(done: int, total: int) -> None:
        if done > total // 2:
            progress(done - total // 2, total // 2)

    return told


def _by_score(played: Mapping[int, list[Turn]], best: int, of_class: dict[str, int]) -> list[Turn]:
    """Return the turn of each class by the score that is told of it."""
    each = {(place, turn.class_name): turn for place, own in played.items() for turn in own}
    return [each[of_class[turn.class_name], turn.class_name] for turn in played[best]]


def choose_score(played: Sequence[Sequence[Turn]]) -> tuple[int, dict[str, int]]:
    """Return the score of the best mean AUROC over classes, and that without each class.

    The first one wins a tie. Figures of a class are those of the score that the other classes
    chose, so that the choice has not seen what it is judged by.

    Args:
        played: The turns by each score; one at least.

    Example:
        >>> def turns(**aurocs: float) -> list[Turn]:
        ...     return [Turn(name, 9, {0.05: 0.5}, auroc, [], {}) for name, auroc in aurocs.items()]
        >>> choose_score([turns(cat=0.9, dog=0.7, fox=0.7), turns(cat=0.6, dog=0.8, fox=0.8)])
        (0, {'cat': 1, 'dog': 0, 'fox': 0})
    """
    aurocs = [{turn.class_name: turn.auroc for turn in turns} for turns in played]

    def best(without: str | None, otherwise: int) -> int:
        kept = [[a for name, a in own.items() if name != without] for own in aurocs]
        told = [(fmean(own), -place) for place, own in enumerate(kept) if own]
        return -max(told)[1] if told else otherwise

    chosen = best(None, 0)
    of_class = {name: best(name, chosen) for name in aurocs[chosen]}
    return chosen, {n: place if n in aurocs[place] else chosen for n, place in of_class.items()}
