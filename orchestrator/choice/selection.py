"""Choice of the winner, the base recipe or a finalist that is significantly better.

Finalists and the base recipe predict the same validation images with the same seeds, which allows a
paired comparison. The 95 % interval of the difference of the first objective comes from a bootstrap
over images (within each class) and seeds. A finalist wins if the interval is above zero. In world
`service` there are answers to training images by fits without them; there whole groups are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from orchestrator.choice.paired_gains import (
    DRAWS,
    Floats,
    Gains,
    Integers,
    interval_of,
    mean_gain,
    same_images,
)
from orchestrator.records import (
    FinalistRecord,
    Interval,
    Objective,
    SelectionRecord,
    best_finalist,
    interval,
)

FOLD = "out_of_fold/accuracy"
BANDS = {"many": 0, "medium": 1, "few": 2}


class FoldAnswers(NamedTuple):
    """Which training images of ``labels [N]`` and ``groups [N]`` are answered right ``[N]``."""

    labels: Integers
    groups: Integers
    right: Floats


class Answers(NamedTuple):
    """Which answers of one recipe with one seed are right, for N validation images.

    ``labels [N]`` are known classes ``0..C-1``, then new classes. ``predicted [N]`` and
    ``updated [N]`` are 1 where the predicted class is right before and after the update,
    ``first_right [N]`` and ``updated_right [N]`` where the answer of that model, a class or
    "unknown", is right (`trainables.inference.judge.right_answers`); fractions are means over
    validation worlds. ``confidence [N]`` is higher for known classes. ``band [C]`` is 0 (many), 1
    (medium) or 2 (few). ``out_of_fold`` are answers to training images by fits without them.
    """

    labels: Integers
    predicted: Floats
    updated: Floats
    first_right: Floats
    updated_right: Floats
    confidence: Floats
    band: Integers
    out_of_fold: FoldAnswers | None = None

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

        return cls(
            np.concatenate(labels),
            joined("predicted"),
            joined("updated"),
            joined("first_right"),
            joined("updated_right"),
            joined("confidence"),
            band,
        )

    @classmethod
    def _of_world(cls, arrays: Mapping[str, Any]) -> Answers:
        found = {name: np.asarray(arrays[name]) for name in cls._fields if name != "out_of_fold"}
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
        gain = fold_gains(metric, a, b) if metric.startswith(FOLD) else _gains(metric, a, b)
        if gain is not None:
            gains.append(gain)
    if gains:
        return mean_gain(gains, rng, draws)
    if metric == "evaluate/novelty/auroc":
        return interval_of(*_resampled_auroc(candidate, base, rng, draws // 4))
    return None


def _gains(metric: str, candidate: Answers, base: Answers) -> Gains | None:
    judged = classes_judged(metric, base)
    if judged is None:
        return None
    classes, field = judged
    return Gains(getattr(candidate, field) - getattr(base, field), base.labels, classes)


def fold_gains(metric: str, candidate: Answers, base: Answers) -> Gains | None:
    """Return the gains of an accuracy out of fold; ``None`` if a recipe has no such answers.

    Raises:
        ValueError: Candidate and base answered different images.
    """
    one, other, part = candidate.out_of_fold, base.out_of_fold, metric.removeprefix(f"{FOLD}/")
    if one is None or other is None:
        return None
    if not np.array_equal(one.labels, other.labels):
        raise ValueError("candidate and base predicted different images, which cannot be paired")
    labels, classes = other.labels, np.unique(other.labels)
    if metric == FOLD:  # of all images alike
        labels, classes = np.zeros_like(labels), np.zeros(1, dtype=labels.dtype)
    elif part in BANDS:
        classes = classes[base.band[classes] == BANDS[part]]
    elif part != "balanced":
        return None
    return Gains(one.right - other.right, labels, classes, other.groups)


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

    every, shared = np.arange(len(base)), same_images(base)
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
    return f"{found.mean:+z.4f} [{found.low:+z.4f}, {found.high:+z.4f}], {how}"
