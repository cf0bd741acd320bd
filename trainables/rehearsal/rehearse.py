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
from trainables.inference.out_of_fold import Tail, answers_to_logits, scorer_of_tail
from trainables.methods.heads import Head
from trainables.methods.metrics.open_set import OpenSet
from trainables.rehearsal.finding import Stream, found_by_size
from trainables.rehearsal.noticing import (
    Answers,
    image_weights,
    noticed_rate,
    taken_for,
    threshold_at,
)
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
    it: the threshold is a level of false alarm of out-of-fold answers to known images (see
    `trainables.inference.out_of_fold`), head, calibrator and score are fitted to all of them. Then
    the class's images come. Nothing of the turn's fit depends on them. Above 100 classes, they play
    new in 100 folds.

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
    methods = [*tail, head, *([rules.finding.clusterer] if rules.finding else [])]
    kept = StoredTurns(stored, data, methods, _rest(names, rules))
    played = []
    for number, cast in enumerate([*casts, *beside]):
        found = kept.read(cast)
        if found is None:
            found = _play(stage, cast)
            kept.write(cast, found)
        played.append(found)
        if progress is not None:
            progress(number + 1, len(casts) + len(beside))
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
    inside = answers_to_logits(tail, known, heard.known, heard.counts, generator=generator)
    scorer = scorer_of_tail(tail, known, heard.known, heard.counts)
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
    new = Answers(sure, logits.argmax(1))
    return [
        _turn(
            stage,
            cast,
            label,
            parted,
            inside.confidence,
            Answers(*(p[labels == label] for p in new)),
        )
        for label in cast.asked
    ]


def _turn(
    stage: _Stage, cast: Cast, label: int, parted: Parted, inside: Tensor, new: Answers
) -> Turn:
    """Return the turn of one class from the confidence of known images and answers about its own.

    The threshold of a level is that of known images out of fold.
    """
    rules, names = stage.rules, stage.names
    prior = None if rules.prior is None else rules.prior[parted.classes]
    weights = image_weights(parted.known.labels, prior)
    thresholds = {level: threshold_at(inside, weights, level) for level in rules.levels}
    served = thresholds[rules.served]
    inside, new = inside.double(), new._replace(confidence=new.confidence.double())
    both = torch.cat([inside, new.confidence])
    is_known = torch.arange(len(both)) < len(inside)
    ranking = OpenSet()(confidence=both, known=is_known)
    return Turn(
        class_name=names[label],
        images=len(new.confidence),
        noticed={level: noticed_rate(new.confidence, t) for level, t in thresholds.items()},
        auroc=ranking["novelty/auroc"],
        taken_for=taken_for(new, served, [names[c] for c in parted.classes.tolist()]),
        found=_found(stage, parted, label, weights, inside < served, new.confidence < served),
        together=tuple(names[other] for other in cast.new if other != label),
    )


def _found(
    stage: _Stage, parted: Parted, label: int, weights: Tensor, alarms: Tensor, noticed: Tensor
) -> dict[int, bool | None]:
    """Return the numbers of images with whether they are found; empty if nobody asks."""
    rules, data = stage.rules, stage.data
    if rules.finding is None:
        return {}
    new = data.features[parted.new[data.labels[parted.new] == label]]
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
