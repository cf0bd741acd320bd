"""Choice of the winner, the base recipe or a finalist that is significantly better.

Finalists and the base recipe predict the same validation images with the same seeds, which allows a
paired comparison. The 95 % interval of the difference of the first objective comes from a bootstrap
over images (within each class) and seeds. A finalist wins if the interval is above zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.records import (
    FinalistRecord,
    Interval,
    Objective,
    SelectionRecord,
    best_finalist,
    interval,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BANDS = {"many": 0, "medium": 1, "few": 2}
DRAWS = 2000
BLOCK = 4_000_000  # resampled differences that are in memory at a time


class Answers(NamedTuple):
    """Which answers of one recipe with one seed are right, for N validation images.

    ``labels [N]`` are known classes ``0..C-1``, then new classes. ``predicted [N]`` and
    ``updated [N]`` are 1 where the predicted class is right before and after the update,
    ``first_right [N]`` and ``updated_right [N]`` where the answer of that model, a class or
    "unknown", is right (`trainables.inference.judge.right_answers`); fractions are means over
    validation worlds. ``confidence [N]`` is higher for known classes. ``band [C]`` is 0 (many), 1
    (medium) or 2 (few).
    """

    labels: Integers
    predicted: Floats
    updated: Floats
    first_right: Floats
    updated_right: Floats
    confidence: Floats
    band: Integers

    @classmethod
    def of(cls, worlds: Sequence[Mapping[str, Any]]) -> Answers:
        """Join the arrays of one `Evaluation` artifact per validation world.

        The worlds have the same images of known classes, whose answers are averaged, and other new
        classes, whose images are put one after the other.

        Example:
            >>> one = {"labels": [0, 1], "predicted": [0, 0], "updated": [0, 1], "band": [0],
            ...     "first_right": [1, 1], "updated_right": [1, 0], "confidence": [0.8, 0.1]}
            >>> joined = Answers.of([one, {**one, "updated": [1, 1]}])
            >>> joined.labels, joined.updated
            (array([0, 1, 2]), array([0.5, 1. , 1. ]))
        """
        found = [cls._of_world(arrays) for arrays in worlds]
        band = found[0].band
        known = [answers.labels < len(band) for answers in found]
        labels, first_new = [found[0].labels[known[0]]], len(band)
        for answers, old in zip(found, known, strict=True):
            new = answers.labels[~old]
            labels.append(new - len(band) + first_new)
            first_new += int(new.max(initial=len(band) - 1)) - len(band) + 1

        def joined(field: str) -> Floats:
            values = [getattr(answers, field) for answers in found]
            both = np.mean([v[old] for v, old in zip(values, known, strict=True)], axis=0)
            return np.concatenate([both, *(v[~old] for v, old in zip(values, known, strict=True))])

        fields = ("predicted", "updated", "first_right", "updated_right", "confidence")
        values = {field: joined(field) for field in fields}
        return cls(labels=np.concatenate(labels), band=band, **values)

    @classmethod
    def _of_world(cls, arrays: Mapping[str, Any]) -> Answers:
        found = {name: np.asarray(arrays[name]) for name in cls._fields}
        labels = found["labels"]
        right = {name: np.equal(found[name], labels) for name in ("predicted", "updated")}
        values = {**found, **right}
        floats = {k: v.astype(np.float64) for k, v in values.items() if k not in ("labels", "band")}
        return cls(**{**values, **floats})


def classes_judged(metric: str, answers: Answers) -> tuple[Integers, str] | None:
    """Return the classes whose mean accuracy is a metric, and the field of the predictions.

    The result is ``None`` if the metric is not a mean accuracy of classes.

    Example:
        >>> answers = Answers(np.array([0, 1, 2]), *[np.zeros(3)] * 5, np.array([0, 2]))
        >>> classes_judged("evaluate/accuracy/few", answers)
        (array([1]), 'predicted')
        >>> classes_judged("evaluate/update/accuracy", answers)
        (array([0, 1, 2]), 'updated')
    """
    classes = np.unique(answers.labels)
    known = classes < len(answers.band)
    after = {"": classes, "/known": classes[known], "/novel": classes[~known]}
    stem = "evaluate/update/accuracy"
    if metric.startswith(stem) and metric.removeprefix(stem) in after:
        return after[metric.removeprefix(stem)], "updated"
    if metric == "evaluate/accuracy/balanced":
        return classes[known], "predicted"
    band = BANDS.get(metric.removeprefix("evaluate/accuracy/"))
    if band is not None:
        return classes[known][answers.band[classes[known]] == band], "predicted"
    return None


def difference(
    metric: str,
    candidate: Sequence[Answers],
    base: Sequence[Answers],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval | None:
    """Return the paired difference of a metric, candidate minus base, with its 95 % interval.

    Args:
        metric: Mean accuracy of classes, or ``evaluate/novelty/auroc``; the result is ``None`` for
            any other metric, because it is not a mean over images.
        candidate: Answers of the candidate, one entry per seed.
        base: Answers of the base recipe with the same seeds, for the same images. Seeds may have
            other images than each other (``--data-seeds``).
        seed: Seed of the bootstrap.
        draws: Number of resamples.

    Raises:
        ValueError: Candidate and base answered different images.
    """
    if any(not np.array_equal(a.labels, b.labels) for a, b in zip(candidate, base, strict=True)):
        raise ValueError("candidate and base predicted different images, which cannot be paired")
    rng = np.random.default_rng(seed)
    gains = []
    for a, b in zip(candidate, base, strict=True):
        judged = classes_judged(metric, b)
        if judged is not None:
            classes, field = judged
            gains.append(Gains(getattr(a, field) - getattr(b, field), b.labels, classes))
    if gains:
        return mean_gain(gains, rng, draws)
    if metric == "evaluate/novelty/auroc":
        return _interval_of(*_resampled_auroc(candidate, base, rng, draws // 4))
    return None


class Gains(NamedTuple):
    """Gains of one seed: ``values [N]``, ``labels [N]`` and the classes that count."""

    values: Floats
    labels: Integers
    classes: Integers


def mean_gain(gains: Sequence[Gains], rng: np.random.Generator, draws: int = DRAWS) -> Interval:
    """Return the mean over seeds and classes of gains, with its 95 % bootstrap interval.

    Seeds and the images of each class are drawn with replacement. Seeds with the same images share
    the drawn images, seeds with other images have draws of their own.
    """
    seeds = len(gains)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    labels, classes = gains[0].labels, gains[0].classes
    if _same_images(gains):
        values = np.stack([each.values for each in gains])
        return _interval_of(*_resampled_means(values, labels, classes, weights, rng))
    one = np.ones((draws, 1))
    parts = [
        _resampled_means(each.values[None], each.labels, each.classes, one, rng) for each in gains
    ]
    total = (weights * np.stack([drawn for drawn, _ in parts], axis=1)).sum(1)
    return _interval_of(total, float(np.mean([exact for _, exact in parts])))


def _same_images(seeds: Sequence[Gains] | Sequence[Answers]) -> bool:
    return all(np.array_equal(each.labels, seeds[0].labels) for each in seeds)


def _interval_of(values: Floats, mean: float) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(mean=mean, low=float(low), high=float(high), values=[mean])


def _resampled_means(
    values: Floats, labels: Integers, classes: Integers, weights: Floats, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Return resampled class means of values ``[S, N]``, and the mean without resampling.

    ``weights [draws, S]`` are those of the drawn seeds.
    """
    draws, exact = len(weights), 0.0
    total = np.zeros(draws)
    for label in classes:
        inside = values[:, labels == label]
        count = inside.shape[1]
        exact += float(inside.mean()) / len(classes)
        for start in range(0, draws, max(1, BLOCK // count)):
            rows = slice(start, start + max(1, BLOCK // count))
            part = weights[rows]
            images = rng.multinomial(count, np.full(count, 1 / count), size=len(part)) / count
            total[rows] += ((part @ inside) * images).sum(1) / len(classes)
    return total, exact


def _resampled_auroc(
    candidate: Sequence[Answers], base: Sequence[Answers], rng: np.random.Generator, draws: int
) -> tuple[Floats, float]:
    """Return resampled differences of AUROC, and the difference without resampling."""
    sides = [
        (np.flatnonzero(b.labels < len(b.band)), np.flatnonzero(b.labels >= len(b.band)))
        for b in base
    ]
    if not all(len(part) for rows in sides for part in rows):
        return np.zeros(1), 0.0

    def gain(seed: int, high: Integers, low: Integers) -> float:
        a, b = candidate[seed].confidence, base[seed].confidence
        return auroc(a[high], a[low]) - auroc(b[high], b[low])

    def drawn(rows: tuple[Integers, Integers]) -> tuple[Integers, Integers]:
        return rng.choice(rows[0], len(rows[0])), rng.choice(rows[1], len(rows[1]))

    every, shared = np.arange(len(base)), _same_images(base)
    values = []
    for _ in range(draws):
        seeds, rows = rng.choice(every, len(every)), drawn(sides[0])
        values.append(
            np.mean([gain(s, *(rows if shared else drawn(sides[s]))) for s in seeds.tolist()])
        )
    return np.array(values), float(np.mean([gain(s, *sides[s]) for s in every.tolist()]))


def auroc(high: Floats, low: Floats) -> float:
    """Return the probability that a value of ``high`` exceeds one of ``low``; ties count half.

    Example:
        >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 3.0]))
        0.625
    """
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    up_to = np.searchsorted(ordered, high, side="right")
    return float((below + up_to).mean() / (2 * len(low)))


def select(
    finalists: Sequence[FinalistRecord],
    objectives: Sequence[Objective],
    answers: Mapping[str, Sequence[Answers]],
    *,
    base: str | None,
    compare: Callable[..., Interval | None] = difference,
) -> SelectionRecord:
    """Choose the best finalist on validation if it beats the base recipe, else the base recipe.

    Args:
        finalists: Records of the finalists, including the base recipe.
        objectives: All objectives rank the finalists; the first decides against the base recipe.
        answers: Predictions in the validation world by trial id, one entry per seed.
        base: Trial id of the base recipe; ``None``: the base recipe did not complete.
        compare: Function that returns the paired difference of two recipes.
    """
    best, first = best_finalist(finalists, objectives), objectives[0]
    if base is None or best.trial_id == base:
        reason = (
            "the best finalist wins, because the base recipe did not complete"
            if base is None
            else "the base recipe wins, because no finalist is better on validation"
        )
        return SelectionRecord(winner=best.trial_id, base=base, reason=reason)
    found = compare(first.metric, answers[best.trial_id], answers[base])
    sign = 1.0 if first.mode == "max" else -1.0
    how = "paired by image and seed"
    if found is None:
        found = _over_seeds(first.metric, best, next(f for f in finalists if f.trial_id == base))
        how = "paired by seed"
    better = found is not None and min(sign * found.low, sign * found.high) > 0
    shown = "unknown with one seed" if found is None else _shown(found, how)
    text = f"the difference of {first.metric} on validation is {shown}"
    return SelectionRecord(
        winner=best.trial_id if better else base,
        base=base,
        challenger=best.trial_id,
        difference=found,
        reason=(
            f"the best finalist wins, being significantly better than the base recipe; {text}"
            if better
            else f"the base recipe wins, as the best finalist is not significantly better; {text}"
        ),
    )


def _over_seeds(metric: str, best: FinalistRecord, base: FinalistRecord) -> Interval | None:
    """Return the t-interval of the paired difference over seeds; ``None`` with a single seed."""
    pair = [record.metrics.get(f"validation/{metric}") for record in (best, base)]
    if pair[0] is None or pair[1] is None or len(pair[0].values) < 2:
        return None
    return interval([a - b for a, b in zip(pair[0].values, pair[1].values, strict=True)])


def _shown(found: Interval, how: str) -> str:
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}], {how}"
