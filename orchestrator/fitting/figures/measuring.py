"""Figures of the served model: from the test part, and out of fold where a class has no test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.fitting.figures.intervals import (
    ClassRate,
    difference_of_means,
    mean_of_rates,
    rates_by_class,
)
from orchestrator.fitting.fit_record import Figures
from orchestrator.records import Interval

if TYPE_CHECKING:
    from trainables.inference.model import Predictions

BANDS = ("many", "medium", "few")

Integers = NDArray[np.int64]


class Judged(NamedTuple):
    """A model's answers to N images of known classes.

    Attributes:
        labels: Their classes ``[N]``.
        groups: Their groups ``[N]``.
        right: Which predictions are right ``[N]``.
        unknown: Which images the model calls unknown ``[N]``; ``None`` if it never does.
    """

    labels: Integers
    groups: Integers
    right: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None


class Known(NamedTuple):
    """The classes: names, training images, bounds of the bands, and expected share of each."""

    names: Sequence[str]
    counts: Sequence[int]
    many_above: int
    few_below: int
    shares: Sequence[float]

    def band(self, name: str) -> str:
        """Return the band of a class by its training images.

        Example:
            >>> known = Known(["cat", "dog"], [500, 19], 100, 20, [0.9, 0.1])
            >>> known.band("cat"), known.band("dog")
            ('many', 'few')
        """
        count = self.counts[list(self.names).index(name)]
        if count < self.few_below:
            return "few"
        return "many" if count > self.many_above else "medium"


def figures(
    test: Judged, out_of_fold: Judged, known: Known, validation: Judged | None = None
) -> Figures:
    """Return the figures of a model.

    A class without test images is judged by its training images, answered out of fold, and named.
    One whose training images are one group has no figure: without them nothing knows the class.

    Args:
        test: Answers to the test images.
        out_of_fold: Answers to the training images by fits without the image's group.
        known: The classes.
        validation: Answers to the folder's own validation images.

    Raises:
        ValueError: No class has images to judge it by.
    """
    rates = rates_by_class(test.right, test.labels, test.groups, known.names)
    inside = rates_by_class(out_of_fold.right, out_of_fold.labels, out_of_fold.groups, known.names)
    inside = {name: rate for name, rate in inside.items() if rate.groups > 1}
    borrowed = [name for name in inside if name not in rates]
    rates = {
        name: rates.get(name) or inside[name] for name in known.names if name in rates | inside
    }
    checked = {}
    if validation is not None:
        given = (validation.right, validation.labels, validation.groups)
        checked = rates_by_class(*given, known.names)
    unknown = _unknown(test, out_of_fold, known.names, borrowed)
    return Figures(
        origin="test" if len(test.labels) else "out of fold",
        balanced=mean_of_rates(list(rates.values())),
        natural=_by_share(rates, known),
        bands=_bands(rates, known),
        false_alarm=_by_share(unknown, known) if unknown else None,
        false_alarm_bands=_bands(unknown, known),
        by_class={name: mean_of_rates([rate]) for name, rate in rates.items()},
        images=len(test.labels),
        out_of_fold=mean_of_rates(list(inside.values())) if inside else None,
        validation=mean_of_rates(list(checked.values())) if checked else None,
        validation_gap=difference_of_means(checked, inside),
        out_of_fold_classes=borrowed,
    )


def _unknown(
    test: Judged, out_of_fold: Judged, names: Sequence[str], borrowed: Sequence[str]
) -> dict[str, ClassRate]:
    """Return the share of each class's images that the model calls unknown."""
    if test.unknown is None:
        return {}
    found = rates_by_class(test.unknown, test.labels, test.groups, names)
    if out_of_fold.unknown is not None:
        inside = rates_by_class(out_of_fold.unknown, out_of_fold.labels, out_of_fold.groups, names)
        found |= {name: inside[name] for name in borrowed}
    return found


def _by_share(rates: Mapping[str, ClassRate], known: Known) -> Interval:
    share = dict(zip(known.names, known.shares, strict=True))
    shares = [share[name] for name in rates]
    return mean_of_rates(list(rates.values()), shares if sum(shares) > 0 else None)


def _bands(rates: Mapping[str, ClassRate], known: Known) -> dict[str, Interval]:
    found = {}
    for band in BANDS:
        own = [rate for name, rate in rates.items() if known.band(name) == band]
        if own:
            found[band] = mean_of_rates(own)
    return found


def judged(answers: Predictions, labels: Integers, groups: Integers | None) -> Judged:
    """Return a model's answers to N images as what is right, and what is called unknown.

    Args:
        answers: The answers.
        labels: The images' classes ``[N]``.
        groups: Their groups; ``None``: each is alone.
    """
    alone = np.arange(len(labels))
    right = answers.class_index == labels
    return Judged(labels, alone if groups is None else groups, right, ~answers.known)
