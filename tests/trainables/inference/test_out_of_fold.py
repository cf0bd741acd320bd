"""Answers of the whole tail out of fold: thresholds on them hold for fresh images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from trainables.artifacts import Classifier, OutOfFold, load_artifact, save_artifact
from trainables.closed_form.groups import folds_of_groups
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import Samples, samples
from trainables.features.predict import calibrated
from trainables.inference.out_of_fold import (
    Tail,
    answers_of_tail,
    answers_to_logits,
    class_was_there,
    scorer_of_tail,
)
from trainables.inference.scoring import fit_out_of_fold
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold
from trainables.methods.thresholds.false_alarm import weighted_quantile

WIDTH, COUNTS = 60, torch.tensor([120, 60, 30])


def drawn(counts: torch.Tensor, seed: int) -> Samples:
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    noise = torch.randn(len(labels), WIDTH, generator=torch.Generator().manual_seed(seed))
    return samples(3 * torch.eye(len(counts), WIDTH)[labels] + noise, labels)


def blank() -> Classifier:
    zeros = torch.zeros(len(COUNTS))
    return Classifier(Head.parse("linear"), WIDTH, {}, zeros, COUNTS, zeros[:1])


def tail(rebalancer: object, score: object) -> Tail:
    return Tail(Rebalancer.parse(rebalancer), Calibrator.parse("temperature"), Score.parse(score))


@pytest.mark.parametrize("score", [{"knn": {"k": 1}}], ids=str)
def test_a_threshold_on_them_rejects_the_stated_share_of_fresh_images(score: object) -> None:
    methods, train = tail("lda", score), drawn(COUNTS, 0)
    found = answers_of_tail(methods, blank(), train, generator=torch.Generator().manual_seed(1))
    threshold = found.confidence.quantile(0.05)
    fresh = drawn(COUNTS * 4, 7)
    state = methods.score.call_with(train._asdict(), "fit")
    sure = methods.score.call_with({"features": fresh.features, "state": state})
    # five folds have a fifth less images, so fresh images look a little more familiar
    assert 0.01 < float((sure < threshold).double().mean()) < 0.09
    # confidences of images that the statistics contain set a threshold that rejects nearly all
    own = methods.score.call_with({"features": train.features, "state": state})
    assert float((sure < own.quantile(0.05)).double().mean()) > 0.9


def test_a_confidence_is_of_the_tail_without_its_fold() -> None:
    """By values: the temperature of a fold is that of the other folds, by SciPy and NumPy."""
    train = drawn(COUNTS, 0)
    pairs, weights = torch.arange(210) // 2, torch.linspace(0.1, 3, 210).double()
    train = train._replace(groups=pairs, weights=weights)
    logits = 2 * train.features[:, :3]
    found = answers_to_logits(
        tail("lda", "msp"), train, logits, COUNTS, generator=torch.Generator().manual_seed(3)
    )
    folds = folds_of_groups(
        pairs, train.labels, count=5, generator=torch.Generator().manual_seed(3)
    )
    values, labels, shares = logits.double().numpy(), train.labels.numpy(), weights.numpy()
    temperatures = set()
    for fold in range(5):
        asked = (folds == fold).numpy()

        def surprise(log: float, fitted: np.ndarray = ~asked) -> float:
            rows = values[fitted] / np.exp(log)
            told = logsumexp(rows, axis=1) - rows[np.arange(len(rows)), labels[fitted]]
            return float((shares[fitted] * told).sum())

        best = minimize_scalar(surprise, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
        temperatures.add(round(best.x, 4))
        expected = softmax(values[asked] / np.exp(best.x), axis=1).max(axis=1)
        assert found.confidence[folds == fold].numpy() == pytest.approx(expected, abs=1e-6)
    assert len(temperatures) == 5
    assert torch.equal(found.logits, logits)


def test_they_are_an_artifact_in_the_order_of_the_images(tmp_path: Path) -> None:
    train = drawn(COUNTS, 0)
    grouped = train._replace(groups=torch.arange(len(train.labels)) // 2)
    found = answers_of_tail(
        tail("knn", "energy"), blank(), grouped, generator=torch.Generator().manual_seed(1)
    )
    assert found.logits.shape == (len(train.labels), 3)
    assert (found.logits.argmax(1) == train.labels).double().mean() > 0.8
    save_artifact(found, tmp_path)
    again = load_artifact(OutOfFold, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))
    assert torch.equal(again.groups, grouped.groups)


def test_a_correction_of_a_trained_classifier_has_none() -> None:
    with pytest.raises(ValueError, match="tau_norm starts from a classifier that was trained"):
        answers_of_tail(
            tail("tau_norm", "energy"), blank(), drawn(COUNTS, 0), generator=torch.Generator()
        )


@pytest.mark.parametrize("rebalancer", ["ridge", "lda", "ncm", "knn", "crt"], ids=str)
def test_a_class_of_one_group_does_not_spoil_calibration_and_threshold(rebalancer: str) -> None:
    counts = torch.tensor([120, 60, 30, 3])
    train = drawn(counts, 0)
    train = train._replace(groups=torch.arange(213).clamp_max(210))  # the last three are one shot
    zeros = torch.zeros(4)
    blank = Classifier(Head.parse("linear"), WIDTH, {}, zeros, counts, zeros[:1])
    methods = tail(rebalancer, "msp")
    found = answers_of_tail(methods, blank, train, generator=torch.Generator().manual_seed(1))
    if rebalancer == "crt":  # from five folds
        assert (found.logits[210:, 3] == NEVER).all()
    there = class_was_there(found.logits, train)
    assert there.tolist() == [True] * 210 + [False] * 3
    before = scorer_of_tail(methods, train.part(there), found.logits[there], counts)
    after = scorer_of_tail(methods, train, found.logits, counts)
    assert torch.equal(
        before.calibrator_state["temperature"], after.calibrator_state["temperature"]
    )
    threshold = Threshold.parse({"false_alarm": {"level": 0.05, "offsets": "none"}})
    balanced = torch.full((4,), 0.25)
    scorer, answers = fit_out_of_fold(
        (methods.calibrator, methods.score, threshold),
        blank,
        train=train,
        answers=found,
        generator=torch.Generator().manual_seed(2),
        prior=balanced,
    )
    assert float(scorer.calibrator_state["temperature"]) < 5.0  # it was 20, the upper bound
    weights = torch.tensor([1 / n for n in (120, 60, 30)])[train.labels[:210]].double()
    expected = weighted_quantile(answers.confidence[:210].double(), weights, 0.05)
    assert scorer.threshold == pytest.approx(expected)


def test_a_class_whose_groups_left_together_was_not_there() -> None:
    """Five folds can take both groups of a class at once."""
    data = samples(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]))
    logits = torch.tensor([[1.0, 0.0], [NEVER, 0.0], [0.0, NEVER], [0.0, 1.0]])
    assert class_was_there(logits, data).tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", sorted(Calibrator.shelf))
def test_without_an_image_to_learn_from_a_calibrator_keeps_the_order(name: str) -> None:
    """Where every class is one group, no answer out of fold can be right."""
    logits = torch.eye(3).masked_fill(torch.eye(3) > 0, NEVER)
    data = samples(torch.eye(3), torch.arange(3))
    methods = Tail(Rebalancer.parse("lda"), Calibrator.parse(name), Score.parse("msp"))
    scorer = scorer_of_tail(methods, data, logits, torch.ones(3).long())
    asked = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 1.0]])
    assert calibrated(scorer, asked).argmax(1).tolist() == [0, 2]
