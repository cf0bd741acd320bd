"""Thresholds on answers out of fold keep their level on fresh images, whatever the score."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.artifacts import Classifier, OutOfFold, Scorer
from trainables.closed_form.statistics import Samples, samples
from trainables.features.predict import calibrated, confidence, predict_logits, unknown
from trainables.inference.scoring import fit_out_of_fold
from trainables.inference.whole_fit import fit_with_answers
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.metrics.accuracy import size_bands
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold

WIDTH, DRAWS, LEVEL = 40, 24, 0.05
COUNTS = torch.tensor([120, 60, 30, 12, 8])


def drawn(counts: torch.Tensor, seed: int) -> Samples:
    """Gaussian classes that overlap somewhat, with more variance in some directions."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    noise = torch.randn(len(labels), WIDTH, generator=torch.Generator().manual_seed(seed))
    return samples(
        4 * torch.eye(len(counts), WIDTH)[labels] + noise * torch.linspace(2, 0.5, WIDTH), labels
    )


def served(score: object, threshold: object, seed: int) -> tuple[Classifier, Scorer]:
    train, zeros = drawn(COUNTS, seed), torch.zeros(len(COUNTS))
    blank = Classifier(Head.parse("linear"), WIDTH, {}, zeros, COUNTS, torch.zeros(WIDTH))
    given = {
        "classifier": blank,
        "features": train.features,
        "labels": train.labels,
        "generator": torch.Generator(),
        "report": lambda metrics, step: None,
    }
    fitted = fit_with_answers(Rebalancer.parse("lda"), given)
    assert fitted.logits is not None
    answers = OutOfFold(fitted.logits.float(), zeros[:0], train.groups)
    methods = Calibrator.parse("temperature"), Score.parse(score), Threshold.parse(threshold)
    scorer, _ = fit_out_of_fold(
        methods,
        fitted.classifier,
        train=train,
        answers=answers,
        generator=torch.Generator().manual_seed(seed),
    )
    return fitted.classifier, scorer


def called(classifier: Classifier, scorer: Scorer, fresh: Samples) -> torch.Tensor:
    logits = calibrated(scorer, predict_logits(classifier, fresh.features))
    sure = confidence(scorer, features=fresh.features, logits=logits, class_counts=COUNTS)
    return unknown(scorer, confidence=sure, logits=logits)


def share(alarms: list[torch.Tensor]) -> float:
    return float(torch.stack([alarm.double().mean() for alarm in alarms]).mean())


@pytest.mark.parametrize("score", sorted(Score.shelf))
def test_the_level_holds_for_fresh_images(score: str) -> None:
    method = {"false_alarm": {"level": LEVEL, "offsets": "none"}}
    alarms = [
        called(*served(score, method, seed), drawn(COUNTS * 4, 1000 + seed))
        for seed in range(DRAWS)
    ]
    # the threshold of one draw is off by the noise of its own images, and fresh ones have theirs
    number = int(COUNTS.sum())
    deviation = math.sqrt(LEVEL * (1 - LEVEL) * (1 / number + 1 / (4 * number)) / DRAWS)
    assert abs(share(alarms) - LEVEL) < 3 * deviation


def test_offsets_bring_rare_classes_near_the_level() -> None:
    bands = {"many_above": 100, "few_below": 20}
    few = size_bands(COUNTS, **bands)["few"]
    rates = {}
    for offsets in ("none", "classes"):
        method = {"false_alarm": {"level": LEVEL, "offsets": offsets, **bands}}
        found = []
        for seed in range(DRAWS):
            fresh = drawn(COUNTS * 4, 1000 + seed)
            alarms = called(*served("knn", method, seed), fresh)
            found.append((alarms[few[fresh.labels]], alarms))
        rates[offsets] = share([rare for rare, _ in found])
        assert abs(share([alarms for _, alarms in found]) - LEVEL) < 0.02
    assert rates["none"] > 0.13
    assert rates["classes"] < 2 * LEVEL
