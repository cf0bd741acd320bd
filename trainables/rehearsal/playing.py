"""One turn: the tails without the classes that play new, and what they answer about those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.statistics import Samples
from trainables.context import derive_seed
from trainables.features.predict import calibrated, confidence
from trainables.inference.expected_prior import weights_of
from trainables.inference.out_of_fold import (
    Tail,
    answers_to_logits,
    class_was_there,
    scorer_of_tail,
)
from trainables.methods.metrics.open_set import OpenSet
from trainables.rehearsal.finding import Stream, found_by_size
from trainables.rehearsal.noticing import Answers, share_of, taken_for, verdict_at
from trainables.rehearsal.outcome import Turn
from trainables.rehearsal.rules import Rules
from trainables.rehearsal.turns import Cast
from trainables.rehearsal.without import HeadAnswers, Heads, Parted, part

NO_SPREAD = 1e-6  # relative; confidences that differ by less are one value but for rounding


class Stage(NamedTuple):
    """What all turns of a rehearsal have in common."""

    data: Samples
    names: list[str]
    rules: Rules
    heads: Heads


class Played(NamedTuple):
    """A turn, and the images (by row) that were called unknown in it at the served level."""

    turn: Turn
    called: list[int]


class Scene(NamedTuple):
    """Images of a turn, what the head without its new classes answers, and images' weights.

    Attributes:
        parted: The images.
        head: Logits, and images per class.
        weights: How much each known image counts ``[N]``; ``None``: all alike.
    """

    parted: Parted
    head: HeadAnswers
    weights: Tensor | None

    @property
    def told(self) -> Tensor:
        """Which known images ``[N]`` a fit without their group can know."""
        return class_was_there(self.head.known, self.parted.known)


def play(stage: Stage, cast: Cast, tails: Sequence[Tail]) -> list[list[Played]]:
    """Return for each tail the turns of the asked classes; none where the turn says nothing.

    The head is fitted once: it does not depend on what follows it.

    Args:
        stage: What all turns have in common.
        cast: The classes that play new.
        tails: Tails of the rebalancer that ``stage.heads`` is of.
    """
    parted = part(stage.data, cast.new)
    if len(parted.known.groups.unique()) < 2:
        return [[] for _ in tails]
    head = stage.heads.without(parted, seed=_draw(stage, cast)[0])
    scene = Scene(parted, head, _weights(stage.rules, parted))
    return [_play_tail(stage, cast, tail, scene) for tail in tails]


def search(stage: Stage, played: Played) -> Played:
    """Return the turn with whether its class is found in the pool, by the rules' ``finding``.

    Args:
        stage: What all turns have in common.
        played: A turn, of a class that played new alone or with others.
    """
    rules, names, turn = stage.rules, stage.names, played.turn
    assert rules.finding is not None
    label = names.index(turn.class_name)
    new = tuple(sorted(names.index(name) for name in (turn.class_name, *turn.together)))
    parted = part(stage.data, new)
    unknown = torch.zeros(len(stage.data.labels), dtype=torch.bool)
    unknown[played.called] = True
    rows = parted.new[stage.data.labels[parted.new] == label]
    weights = _weights(rules, parted)
    stream = Stream(
        parted.known,
        torch.ones(len(parted.rows)).double() if weights is None else weights,
        unknown[parted.rows],
        stage.data.features[rows],
        unknown[rows],
    )
    generator = torch.Generator().manual_seed(derive_seed(rules.seed, "rehearsal", "pool", label))
    found = found_by_size(rules.finding, stream, level=rules.served, generator=generator)
    return played._replace(turn=turn._replace(found=found))


def _draw(stage: Stage, cast: Cast) -> tuple[int, torch.Generator]:
    """Return the seed of the head's folds, and the generator of those that follow."""
    seed = derive_seed(stage.rules.seed, "rehearsal", *cast.new)
    generator = torch.Generator().manual_seed(seed)
    return int(torch.randint(2**62, (), generator=generator)), generator


def _play_tail(stage: Stage, cast: Cast, tail: Tail, scene: Scene) -> list[Played]:
    """Return the turns of the asked classes with one calibrator and score."""
    parted, head = scene.parted, scene.head
    known = parted.known
    known = known if scene.weights is None else known._replace(weights=scene.weights)
    generator = _draw(stage, cast)[1]
    inside = answers_to_logits(tail, known, head.known, head.counts, generator=generator)
    scorer = scorer_of_tail(tail, known, head.known, head.counts)
    logits = calibrated(scorer, head.new)
    sure = confidence(
        scorer,
        features=stage.data.features[parted.new],
        logits=logits,
        class_counts=head.counts,
    )
    if len(parted.classes) == 1 and _one_value(torch.cat([inside.confidence, sure])):
        return []
    seen = Answers(inside.confidence, inside.logits.argmax(1))
    new = Answers(sure, logits.argmax(1))
    return [_turn(stage, cast, label, scene, seen, new) for label in cast.asked]


def _turn(
    stage: Stage, cast: Cast, label: int, scene: Scene, known: Answers, every: Answers
) -> Played:
    """Return the turn of one class from answers about known images and about new ones."""
    rules, names, parted = stage.rules, stage.names, scene.parted
    own = stage.data.labels[parted.new] == label
    new, told = Answers(*(answers[own] for answers in every)), scene.told
    judged = Answers(*(answers[told] for answers in known))
    verdicts = {
        level: verdict_at(
            rules.threshold,
            level,
            judged,
            class_counts=scene.head.counts,
            weights=None if scene.weights is None else scene.weights[told],
        )
        for level in rules.levels
    }
    served = verdicts[rules.served]
    noticed = served.unknown(new)
    both = torch.cat([judged.confidence.double(), new.confidence.double()])
    is_known = torch.arange(len(both)) < len(judged.confidence)
    ranking = OpenSet()(confidence=both, known=is_known)
    turn = Turn(
        class_name=names[label],
        images=len(new.confidence),
        noticed={level: share_of(verdict.unknown(new)) for level, verdict in verdicts.items()},
        auroc=ranking["novelty/auroc"],
        taken_for=taken_for(new.predicted, noticed, [names[c] for c in parted.classes.tolist()]),
        found={},
        together=tuple(names[other] for other in cast.new if other != label),
        too_few=tuple(level for level, found in verdicts.items() if found.nothing_is_unknown),
    )
    called = [parted.rows[served.unknown(known)], parted.new[own][noticed]]
    return Played(turn, torch.cat(called).tolist())


def _weights(rules: Rules, parted: Parted) -> Tensor | None:
    """Return how much each known image counts; ``None``: all alike."""
    if rules.prior is None:
        return None
    return weights_of(rules.prior[parted.classes], parted.known.labels)


def _one_value(confidence: Tensor) -> bool:
    """Say whether all confidences are one value but for rounding."""
    low, high = float(confidence.min()), float(confidence.max())
    return high - low <= NO_SPREAD * max(1.0, abs(low), abs(high))
