"""Choice of a variant by its answers out of fold, and how good the choice honestly is.

A choice has seen the answers that it chose by, so the chosen variant looks better on them than it
is. `choose` repeats the choice inside: in each bootstrap sample of groups the best variant of the
sample is judged on the groups that the sample left out (BBC-CV).

Source:
    Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation", Machine Learning 107.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.records import Interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DRAWS = 1000
BLOCK = 64  # bootstrap samples at a time
CONFIDENT = (0.025, 0.975)


class Answered(NamedTuple):
    """Which answers of V variants are right, for N images that were answered out of fold.

    Attributes:
        right: ``[V, N]`` bool.
        labels: Class of each image ``[N]``, of C classes.
        groups: Group of each image ``[N]``; images of one are drawn and left out together.
        prior: Expected share of each class ``[C]``; for ``accuracy``.
    """

    right: NDArray[np.bool_]
    labels: Integers
    groups: Integers
    prior: Floats


class Choice(NamedTuple):
    """The chosen variant beside the base.

    Attributes:
        best: Index of the variant that is best on all images.
        honest: What a variant that is chosen in this way reaches on images that the choice did not
            see, with its 95 % interval.
        gain: The same of its difference to the base, paired.
        served: Index of the variant to serve: ``best`` if the gain's interval is above zero, else
            the base.
    """

    best: int
    honest: Interval
    gain: Interval
    served: int


def scores(answered: Answered, weights: Floats, metric: str) -> Floats:
    """Return the metric of each variant under weights of images.

    ``balanced`` is the mean over classes of the weighted accuracy a_c, ``accuracy`` the mean of
    a_c weighted by the prior, ``worst-class`` the smallest ``(k_c + 1) / (n_c + 2)`` of k_c right
    answers among n_c, so that a class of two images does not decide alone. Classes without weight
    do not count.

    Args:
        answered: The answers.
        weights: Weight of each image ``[B, N]``, >= 0, for B samples.
        metric: Name of the metric.

    Returns:
        ``[B, V]``; NaN for a sample without weight.

    Example:
        >>> right = np.array([[True, False, True], [True, True, False]])
        >>> found = Answered(right, np.array([0, 0, 1]), np.arange(3), np.array([0.75, 0.25]))
        >>> scores(found, np.ones((1, 3)), "balanced").tolist()
        [[0.75, 0.5]]
        >>> scores(found, np.ones((1, 3)), "accuracy").tolist()
        [[0.625, 0.75]]
    """
    classes = len(answered.prior)
    total = np.zeros((len(weights), classes, 1))
    right = np.zeros((len(weights), classes, len(answered.right)))
    for label in range(classes):
        inside = answered.labels == label
        part = weights[:, inside]
        total[:, label, 0] = part.sum(axis=1)
        right[:, label] = part @ answered.right[:, inside].T.astype(np.float64)
    seen = total > 0
    if metric == "worst-class":
        worst = np.where(seen, (right + 1) / (total + 2), np.inf).min(axis=1)
        return np.where(seen.any(axis=1), worst, np.nan)
    shares = np.where(seen, answered.prior[None, :, None] if metric == "accuracy" else 1.0, 0.0)
    accuracy = np.divide(right, total, out=np.zeros_like(right), where=seen)
    with np.errstate(invalid="ignore"):
        found: Floats = (accuracy * shares).sum(axis=1) / shares.sum(axis=1)
    return found


def choose(
    answered: Answered, *, base: int, metric: str, seed: int = 0, draws: int = DRAWS
) -> Choice:
    """Choose the best variant, and judge the choice where it did not look.

    Args:
        answered: Answers out of fold; classes that can't be judged are left out by the caller.
        base: Index of the base recipe.
        metric: ``balanced``, ``accuracy`` or ``worst-class``, see `scores`.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap samples.

    Raises:
        ValueError: There are no images.
    """
    if not answered.right.shape[1]:
        raise ValueError("a choice needs answers to at least one image; received none")
    best = _best(scores(answered, np.ones((1, answered.right.shape[1])), metric), base)[0]
    chosen, paired = [], []
    for drawn in _bootstrap(answered, np.random.default_rng(seed), draws):
        winners = _best(scores(answered, drawn, metric), base)
        outside = scores(answered, (drawn == 0).astype(np.float64), metric)
        theirs = outside[np.arange(len(drawn)), winners]
        chosen.append(theirs)
        paired.append(theirs - outside[:, base])
    honest, gain = _interval(np.concatenate(chosen)), _interval(np.concatenate(paired))
    if best == base:
        gain = Interval(mean=0.0, low=0.0, high=0.0, values=[0.0])
    return Choice(int(best), honest, gain, int(best) if gain.low > 0 else base)


def paired_gain(
    answered: Answered, *, base: int, metric: str, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Return how much better the other one of two variants is, over samples of groups.

    Nothing is chosen, so the images of each bootstrap sample judge themselves.

    Args:
        answered: Answers of two variants.
        base: Index of the one that is compared with.
        metric: See `scores`.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap samples.

    Example:
        >>> right = np.array([[True, False] * 20, [True, True] * 20])
        >>> found = Answered(right, np.arange(40) % 2, np.arange(40), np.array([0.5, 0.5]))
        >>> paired_gain(found, base=0, metric="balanced").mean
        0.5
    """
    other = 1 - base
    whole = scores(answered, np.ones((1, answered.right.shape[1])), metric)[0]
    found = [
        scores(answered, drawn, metric)
        for drawn in _bootstrap(answered, np.random.default_rng(seed), draws)
    ]
    drawn = np.concatenate(found)
    ends = _interval(drawn[:, other] - drawn[:, base])
    mean = float(whole[other] - whole[base])
    return Interval(mean=mean, low=min(ends.low, mean), high=max(ends.high, mean), values=[mean])


def _best(found: Floats, base: int) -> Integers:
    """Return the best variant of each sample ``[B]``; on a tie the base, then the first."""
    found = np.nan_to_num(found, nan=-np.inf)
    best = found.argmax(axis=1)
    return np.where(found[:, base] >= found.max(axis=1), base, best)


def _bootstrap(answered: Answered, rng: np.random.Generator, draws: int) -> Iterator[Floats]:
    """Yield weights ``[B, N]``: how often each image's group was drawn, within its class.

    A group of several classes belongs to that of its first image.
    """
    _, first, number = np.unique(answered.groups, return_index=True, return_inverse=True)
    of_class = answered.labels[first]
    members = [np.flatnonzero(of_class == label) for label in np.unique(of_class)]
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        times = np.zeros((size, len(first)))
        for groups in members:
            share = np.full(len(groups), 1 / len(groups))
            times[:, groups] = rng.multinomial(len(groups), share, size=size)
        yield times[:, number]


def _interval(values: Floats) -> Interval:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Interval(mean=0.0, low=0.0, high=0.0, values=[0.0])
    low, high = (float(end) for end in np.quantile(finite, CONFIDENT))
    mean = float(finite.mean())
    return Interval(mean=mean, low=min(low, mean), high=max(high, mean), values=[mean])
