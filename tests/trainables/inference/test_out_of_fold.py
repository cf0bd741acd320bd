"""Answers of the whole tail out of fold: thresholds on them hold for fresh images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.artifacts import Classifier, OutOfFold, load_artifact, save_artifact
from trainables.closed_form.statistics import Samples, samples
from trainables.inference.out_of_fold import Tail, answers_of_tail
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score

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
