"""Thresholds without images of new classes: classes left out in turn, beside refitting by hand."""

from __future__ import annotations

import pytest
import torch

from trainables.artifacts import Classifier, Scorer
from trainables.features.predict import confidence, predict_logits
from trainables.inference.scoring import MOST_ROUNDS, Samples, fit_scorer
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold

WIDTH = 6


class Seen(Threshold):
    """Remembers what a threshold is fitted on."""

    def __call__(self, *, confidence: torch.Tensor, known: torch.Tensor) -> float:
        SEEN[:] = [confidence, known]
        return 0.25


del Threshold.shelf[Seen.name]  # this file's threshold is nobody else's
SEEN: list[torch.Tensor] = []


def problem(classes: int) -> tuple[Classifier, Samples, Samples]:
    draws = torch.Generator().manual_seed(classes)
    centers = 3 * torch.randn(classes, WIDTH, generator=draws)

    def samples(each: int) -> Samples:
        labels = torch.arange(classes).repeat_interleave(each)
        noise = torch.randn(len(labels), WIDTH, generator=draws)
        return Samples(centers[labels] + noise, labels)

    weight = {"weight": centers.clone(), "bias": torch.randn(classes, generator=draws)}
    counts = torch.full((classes,), 12)
    head = Classifier(
        Head.parse("linear"), WIDTH, weight, torch.zeros(classes), counts, torch.zeros(WIDTH)
    )
    return head, samples(12), samples(5)


def methods(score: str) -> tuple[Calibrator, Score, Threshold]:
    found = Seen()
    return Calibrator.parse("none"), Score.parse(score), found


def by_hand(
    score: Score, head: Classifier, train: Samples, validation: Samples, out: list[int]
) -> torch.Tensor:
    """Confidence of the images of classes ``out`` under head and score without these classes."""
    classes = len(head.class_counts)
    kept = [c for c in range(classes) if c not in out]
    counts = head.class_counts[kept]
    state = {}
    if hasattr(score, "fit"):
        rows = torch.tensor([int(c) in kept for c in train.labels])
        available = {
            "features": train.features[rows],
            "logits": predict_logits(head, train.features[rows])[:, kept],
            "labels": torch.tensor([kept.index(int(c)) for c in train.labels[rows]]),
            "class_counts": counts,
        }
        state = score.call_with(available, "fit")
    scorer = Scorer(Calibrator.parse("none"), {}, score, state, 0.0)
    rows = torch.tensor([int(c) in out for c in validation.labels])
    left = validation.features[rows]
    return confidence(
        scorer, features=left, logits=predict_logits(head, left)[:, kept], class_counts=counts
    )


@pytest.mark.parametrize("score", ["msp", "energy", "mahalanobis", "knn"])
def test_each_class_is_unknown_to_a_head_and_a_score_without_it(score: str) -> None:
    head, train, validation = problem(4)
    none = torch.zeros(0, WIDTH)
    chosen = methods(score)
    scorer = fit_scorer(chosen, head, train=train, validation=validation, unknown=none)
    assert scorer.threshold == 0.25
    sure, known = SEEN
    assert known.tolist() == [True] * 60 + [False] * 20  # known in three rounds, new in one
    wanted = [by_hand(chosen[1], head, train, validation, [c]) for c in range(4)]
    torch.testing.assert_close(sure[60:], torch.cat(wanted))
    logits = predict_logits(head, validation.features)
    own = confidence(
        scorer, features=validation.features, logits=logits, class_counts=head.class_counts
    )
    torch.testing.assert_close(
        sure[:60], own.repeat(3)
    )  # known images: the scorer that will answer


def test_given_images_of_new_classes_none_is_left_out() -> None:
    head, train, validation = problem(4)
    unknown = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(9))
    fit_scorer(methods("energy"), head, train=train, validation=validation, unknown=unknown)
    sure, known = SEEN
    assert known.tolist() == [True] * 20 + [False] * 7
    torch.testing.assert_close(sure[20:], torch.logsumexp(predict_logits(head, unknown), 1))


def test_many_classes_are_left_out_in_groups_each_once() -> None:
    classes = MOST_ROUNDS + 5
    head, train, validation = problem(classes)
    none = torch.zeros(0, WIDTH)
    chosen = methods("energy")
    fit_scorer(chosen, head, train=train, validation=validation, unknown=none)
    sure, known = SEEN
    assert int((~known).sum()) == 5 * classes
    groups = [list(range(classes))[first::MOST_ROUNDS] for first in range(MOST_ROUNDS)]
    wanted = [by_hand(chosen[1], head, train, validation, group) for group in groups]
    torch.testing.assert_close(sure[known.logical_not()], torch.cat(wanted))


def test_of_two_classes_none_can_be_left_out() -> None:
    head, train, validation = problem(2)
    none = torch.zeros(0, WIDTH)
    fit_scorer(methods("energy"), head, train=train, validation=validation, unknown=none)
    assert SEEN[1].all()
