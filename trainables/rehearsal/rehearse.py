"""The rehearsal of a recipe: each known class plays new in its turn, on features that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.statistics import Samples
from trainables.context import derive_seed
from trainables.features.predict import calibrated, confidence
from trainables.inference.expected_prior import weights_of
from trainables.inference.out_of_fold import Tail, answers_to_logits, scorer_of_tail
from trainables.methods.heads import Head
from trainables.methods.metrics.open_set import OpenSet
from trainables.rehearsal.finding import Stream, found_by_size
from trainables.rehearsal.noticing import Answers, share_of, taken_for, verdict_at
from trainables.rehearsal.outcome import Rehearsal, Turn
from trainables.rehearsal.rules import USUAL, Rules, check
from trainables.rehearsal.stored_turns import StoredTurns
from trainables.rehearsal.turns import Cast, turns, turns_with_neighbors
from trainables.rehearsal.without import Heads, Parted, part

LOOKED_UP = {"heads": ("linear",)}
NO_SPREAD = 1e-6  # relative; confidences that differ by less are one value but for rounding

Progress = Callable[[int, int], None]


class _Stage(NamedTuple):
    """What all turns of a rehearsal have in common."""

    tail: Tail
    data: Samples
    names: list[str]
    rules: Rules
    heads: Heads


def rehearse(
    tail: Tail,
    data: Samples,
    class_names: Sequence[str],
    rules: Rules = USUAL,
    *,
    progress: Progress | None = None,
    stored: Path | None = None,
) -> Rehearsal:
    """Let each class play new: would its images be noticed, and what would they be taken for?

    In a turn, the class's images leave, and the tail is fitted to all others as the service fits
    it: head, calibrator and score to all of them, the threshold by `FalseAlarm` to out-of-fold
    answers (see `trainables.inference.out_of_fold`), with thresholds of their own for classes and
    bands, by what an image is taken for, and images weighed by the expected prior. Then the class's
    images come. Nothing of the turn's fit depends on them. Above 100 classes, they play new in 100
    folds.

    At a level for which too few images stay known (``1 / level - 1`` are needed, weighed), nothing
    is called unknown, so nothing is noticed; `Turn.too_few` says so.

    Args:
        tail: The methods after a frozen trunk; the rebalancer is fitted to features alone.
        data: All training images: features ``[N, D]`` of a trunk that saw no label of them, labels
            in 0..C-1, groups.
        class_names: Of the C classes.
        rules: Levels of false alarm, classes that never play new, and more.
        progress: Is called with the number of turns that are done, and of all.
        stored: Folder of finished turns, which are read and added to.

    Raises:
        ConfigError: An argument that does not fit the others.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> from trainables.methods.calibrators import Calibrator
        >>> from trainables.methods.rebalancers import Rebalancer
        >>> from trainables.methods.scores import Score
        >>> tail = Tail(
        ...     Rebalancer.parse("ncm"), Calibrator.parse("none"), Score.parse({"knn": {"k": 1}})
        ... )
        >>> labels = torch.arange(3).repeat_interleave(20)
        >>> angle = 2.0 * labels + torch.linspace(0, 0.1, 60)
        >>> features = torch.stack([angle.cos(), angle.sin()], dim=1)
        >>> rehearse(tail, samples(features, labels), ["cat", "dog", "fox"]).noticed(0.05).mean
        1.0
    """
    names, data = list(class_names), data._replace(features=data.features.float())
    rules = rules._replace(levels=tuple(sorted(rules.levels)))
    check(tail, data, names, rules)
    casts, beside = _casts(data, names, rules)
    nobody = _nobody(data, casts)
    if nobody:
        return Rehearsal([], [], rules.levels, rules.served, rules.met, 0.0, nobody)
    head = rules.head or Head.parse("linear")
    stage = _Stage(tail, data, names, rules, Heads(tail.rebalancer, data, head))
    played = _play_all(stage, [*casts, *beside], progress, stored)
    alone = [turn for found in played[: len(casts)] for turn in found]
    alone.sort(key=lambda turn: names.index(turn.class_name))
    others = [turn for found in played[len(casts) :] for turn in found]
    missing = _missing(stage, casts, alone)
    prevalence = rules.finding.prevalence if rules.finding else 0.0
    return Rehearsal(alone, others, rules.levels, rules.served, rules.met, prevalence, missing)


def _casts(data: Samples, names: list[str], rules: Rules) -> tuple[list[Cast], list[Cast]]:
    """Return the turns of each class, and those with the classes most like it."""
    present = data.labels.unique().tolist()
    playing = [label for label in present if names[label] not in rules.never_new]
    generator = torch.Generator().manual_seed(derive_seed(rules.seed, "rehearsal", "folds"))
    beside: list[Cast] = []
    if rules.neighbors and len(present) > 3:
        rows = torch.isin(data.labels, torch.tensor(playing))
        candidates = data.features[rows], data.labels[rows]
        beside = turns_with_neighbors(playing, *candidates, number=rules.neighbors)
    return turns(playing, generator=generator), beside


def _play_all(
    stage: _Stage, casts: list[Cast], progress: Progress | None, stored: Path | None
) -> list[list[Turn]]:
    """Return the turns of each cast: those that are stored, and others."""
    rules = stage.rules
    searched = [rules.finding.clusterer] if rules.finding else []
    methods = [*stage.tail, rules.threshold, stage.heads.head, *searched]
    kept = StoredTurns(stored, stage.data, methods, _rest(stage.names, rules))
    played = []
    for number, cast in enumerate(casts):
        found = kept.read(cast)
        if found is None:
            found = _play(stage, cast)
            kept.write(cast, found)
        played.append(found)
        if progress is not None:
            progress(number + 1, len(casts))
    return played


def _play(stage: _Stage, cast: Cast) -> list[Turn]:
    """Return the turns of the asked classes of a cast; none where the turn says nothing."""
    tail, data, seed = stage.tail, stage.data, stage.rules.seed
    parted = part(data, cast.new)
    known = parted.known
    if len(known.groups.unique()) < 2:
        return []
    generator = torch.Generator().manual_seed(derive_seed(seed, "rehearsal", *cast.new))
    folds = int(torch.randint(2**62, (), generator=generator))
    heard = stage.heads.without(parted, seed=folds)
    weights = _weights(stage.rules, parted)
    weighed = known if weights is None else known._replace(weights=weights)
    inside = answers_to_logits(tail, weighed, heard.known, heard.counts, generator=generator)
    scorer = scorer_of_tail(tail, weighed, heard.known, heard.counts)
    logits = calibrated(scorer, heard.new)
    sure = confidence(
        scorer,
        features=data.features[parted.new],
        logits=logits,
        class_counts=heard.counts,
    )
    if len(parted.classes) == 1 and _one_value(torch.cat([inside.confidence, sure])):
        return []
    labels = data.labels[parted.new]
    seen = Answers(inside.confidence, inside.logits.argmax(1))
    new = Answers(sure, logits.argmax(1))
    heard_of = _Heard(parted, seen, heard.counts, weights)
    return [
        _turn(stage, cast, label, heard_of, Answers(*(p[labels == label] for p in new)))
        for label in cast.asked
    ]


class _Heard(NamedTuple):
    """What a turn tells of the known images: parted, answers, images per class, weights."""

    parted: Parted
    answers: Answers
    counts: Tensor
    weights: Tensor | None


def _weights(rules: Rules, parted: Parted) -> Tensor | None:
    """Return how much each known image counts; ``None``: all alike."""
    if rules.prior is None:
        return None
    return weights_of(rules.prior[parted.classes], parted.known.labels)


def _turn(stage: _Stage, cast: Cast, label: int, known: _Heard, new: Answers) -> Turn:
    """Return the turn of one class from answers about known images and about its own."""
    rules, names = stage.rules, stage.names
    verdicts = {
        level: verdict_at(
            rules.threshold,
            level,
            known.answers,
            class_counts=known.counts,
            weights=known.weights,
        )
        for level in rules.levels
    }
    served = verdicts[rules.served]
    noticed = served.unknown(new)
    both = torch.cat([known.answers.confidence.double(), new.confidence.double()])
    is_known = torch.arange(len(both)) < len(known.answers.confidence)
    ranking = OpenSet()(confidence=both, known=is_known)
    return Turn(
        class_name=names[label],
        images=len(new.confidence),
        noticed={level: share_of(verdict.unknown(new)) for level, verdict in verdicts.items()},
        auroc=ranking["novelty/auroc"],
        taken_for=taken_for(
            new.predicted, noticed, [names[c] for c in known.parted.classes.tolist()]
        ),
        found=_found(stage, label, known, served.unknown(known.answers), noticed),
        together=tuple(names[other] for other in cast.new if other != label),
        too_few=tuple(level for level, found in verdicts.items() if found.nothing_is_unknown),
    )


def _found(
    stage: _Stage, label: int, known: _Heard, alarms: Tensor, noticed: Tensor
) -> dict[int, bool | None]:
    """Return the numbers of images with whether they are found; empty if nobody asks."""
    rules, data, parted = stage.rules, stage.data, known.parted
    if rules.finding is None:
        return {}
    new = data.features[parted.new[data.labels[parted.new] == label]]
    weights = torch.ones(len(alarms)).double() if known.weights is None else known.weights
    stream = Stream(parted.known, weights, alarms, new, noticed)
    generator = torch.Generator().manual_seed(derive_seed(rules.seed, "rehearsal", "pool", label))
    return found_by_size(rules.finding, stream, level=rules.served, generator=generator)


def _one_value(confidence: Tensor) -> bool:
    """Say whether all confidences are one value but for rounding."""
    low, high = float(confidence.min()), float(confidence.max())
    return high - low <= NO_SPREAD * max(1.0, abs(low), abs(high))


def _rest(names: list[str], rules: Rules) -> object:
    """Return what a turn depends on besides images and methods, as values of JSON."""
    prior = None if rules.prior is None else rules.prior.tolist()
    searched = None if rules.finding is None else rules.finding[1:]
    return [names, rules.levels, rules.served, prior, rules.seed, searched]


def _nobody(data: Samples, casts: list[Cast]) -> str:
    """Say why nothing can be told, or nothing."""
    if len(data.labels.unique()) < 2:
        return "cannot be told: with one class, none is known while it plays new"
    if not casts:
        return "cannot be told: every class is one that never plays new"
    return ""


def _missing(stage: _Stage, casts: list[Cast], played: list[Turn]) -> str:
    """Say which classes have no turn, and why."""
    told = {turn.class_name for turn in played}
    asked = [stage.names[label] for cast in casts for label in cast.asked]
    missing = [name for name in asked if name not in told]
    if not missing:
        return ""
    names = ", ".join(f"'{name}'" for name in missing)
    return (
        f"cannot be told for {names}: one class stays known, and either it has fewer than two "
        f"groups of images, or scores/{stage.tail.score.name} says the same of every image when "
        "only one class is known; a distance score, such as knn or mahalanobis, does not"
    )
