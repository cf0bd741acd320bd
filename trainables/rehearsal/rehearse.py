"""The rehearsal of a recipe: each known class plays new in its turn, on features that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch

from trainables.closed_form.statistics import Samples
from trainables.context import derive_seed
from trainables.inference.out_of_fold import Tail
from trainables.methods.heads import Head
from trainables.rehearsal.outcome import Rehearsal, Turn
from trainables.rehearsal.playing import Played, Stage, play, search
from trainables.rehearsal.rules import USUAL, Rules, check
from trainables.rehearsal.stored_turns import StoredTurns, digests_of
from trainables.rehearsal.turns import Cast, turns, turns_with_neighbors
from trainables.rehearsal.without import Heads

LOOKED_UP = {"heads": ("linear",)}

Progress = Callable[[int, int], None]


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
    (found,) = rehearse_each([tail], data, class_names, rules, progress=progress, stored=stored)
    return found


def rehearse_each(
    tails: Sequence[Tail],
    data: Samples,
    class_names: Sequence[str],
    rules: Rules = USUAL,
    *,
    progress: Progress | None = None,
    stored: Path | None = None,
) -> list[Rehearsal]:
    """Return the rehearsal of each tail as `rehearse` does; a turn fits the head once for all.

    Args:
        tails: Tails of one rebalancer, which differ in calibrator and score.
        data: See `rehearse`, as all that follows.
        class_names: Of the C classes.
        rules: How a rehearsal is played.
        progress: Is called with the number of turns that are done, and of all.
        stored: Folder of finished turns.

    Raises:
        ValueError: The tails have several rebalancers.
        ConfigError: An argument that does not fit the others.
    """
    if any(tail.rebalancer != tails[0].rebalancer for tail in tails):
        raise ValueError("rehearse_each: the tails must have one rebalancer")
    names, data = list(class_names), data._replace(features=data.features.float())
    rules = rules._replace(levels=tuple(sorted(rules.levels)))
    for tail in tails:
        check(tail, data, names, rules)
    casts, beside = _casts(data, names, rules)
    empty = Rehearsal([], [], rules.levels, rules.served, rules.met, 0.0, _nobody(data, casts))
    if empty.cannot_tell:
        return [empty for _ in tails]
    head = rules.head or Head.parse("linear")
    stage = Stage(data, names, rules, Heads(tails[0].rebalancer, data, head))
    played = _play_all(stage, [*casts, *beside], tails, progress, stored)
    prevalence = rules.finding.prevalence if rules.finding else 0.0
    found = []
    for tail, own in zip(tails, zip(*played, strict=True), strict=True):
        alone = sorted(_turns_of(own[: len(casts)]), key=lambda turn: names.index(turn.class_name))
        told = empty._replace(turns=alone, beside=_turns_of(own[len(casts) :]))
        missing = _missing(names, tail, casts, alone)
        found.append(told._replace(prevalence=prevalence, cannot_tell=missing))
    return found


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
    stage: Stage,
    casts: list[Cast],
    tails: Sequence[Tail],
    progress: Progress | None,
    stored: Path | None,
) -> list[list[list[Played]]]:
    """Return the turns of each cast by each tail: those that are stored, and others."""
    noticed, searched = _stores(stage, tails, stored)
    every = []
    for number, cast in enumerate(casts):
        done = [store.read(cast) for store in searched]
        open_ = [place for place, played in enumerate(done) if played is None]
        for place, played in zip(open_, _noticed(stage, cast, tails, noticed, open_), strict=True):
            done[place] = played
            if stage.rules.finding is not None:
                done[place] = found = [search(stage, each) for each in played]
                searched[place].write(cast, found)
        every.append([played for played in done if played is not None])
        if progress is not None:
            progress(number + 1, len(casts))
    return every


def _noticed(
    stage: Stage, cast: Cast, tails: Sequence[Tail], stores: list[StoredTurns], places: list[int]
) -> list[list[Played]]:
    """Return the turns of a cast by some tails, before any pool is searched."""
    found = {place: stores[place].read(cast) for place in places}
    missing = [place for place, played in found.items() if played is None]
    if missing:
        fresh = play(stage, cast, [tails[place] for place in missing])
        for place, played in zip(missing, fresh, strict=True):
            stores[place].write(cast, played)
            found[place] = played
    return [played for played in found.values() if played is not None]


def _stores(
    stage: Stage, tails: Sequence[Tail], folder: Path | None
) -> tuple[list[StoredTurns], list[StoredTurns]]:
    """Return where turns of each tail are kept before the pool is searched, and after.

    They are the same where nobody asks for a search.
    """
    rules = stage.rules
    prior = None if rules.prior is None else rules.prior.tolist()
    rest = [stage.names, rules.levels, rules.served, prior, rules.seed]
    digests = digests_of(stage.data) if folder is not None else []
    methods = [[*tail, rules.threshold, stage.heads.head] for tail in tails]
    noticed = [StoredTurns(folder, digests, each, rest) for each in methods]
    if rules.finding is None:
        return noticed, noticed
    clusterer, *how = rules.finding
    return noticed, [StoredTurns(folder, digests, [*m, clusterer], [*rest, how]) for m in methods]


def _turns_of(played: Iterable[list[Played]]) -> list[Turn]:
    return [each.turn for each in chain.from_iterable(played)]


def _nobody(data: Samples, casts: list[Cast]) -> str:
    """Say why nothing can be told, or nothing."""
    if len(data.labels.unique()) < 2:
        return "cannot be told: with one class, none is known while it plays new"
    if not casts:
        return "cannot be told: every class is one that never plays new"
    return ""


def _missing(names: list[str], tail: Tail, casts: list[Cast], played: list[Turn]) -> str:
    """Say which classes have no turn, and why."""
    told = {turn.class_name for turn in played}
    asked = [names[label] for cast in casts for label in cast.asked]
    missing = [name for name in asked if name not in told]
    if not missing:
        return ""
    listed = ", ".join(f"'{name}'" for name in missing)
    return (
        f"cannot be told for {listed}: one class stays known, and either it has fewer than two "
        f"groups of images, or scores/{tail.score.name} says the same of every image when "
        "only one class is known; a distance score, such as knn or mahalanobis, does not"
    )
