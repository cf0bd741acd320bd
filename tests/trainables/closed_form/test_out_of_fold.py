"""Answers out of fold: class means against refitting, folds that keep groups whole, the scale."""

from __future__ import annotations

import pytest
import torch

from trainables.closed_form.groups import folds_of_groups, group_blocks
from trainables.closed_form.out_of_fold import (
    k_fold,
    leave_out_means,
    out_of_fold_scale,
    prior_offset,
    scaled_logits,
)
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import samples

LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor([12, 6, 2]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(width: int = 4):
    features = torch.randn(len(LABELS), width, generator=seeded(), dtype=torch.float64)
    groups = torch.randint(9, (len(LABELS),), generator=seeded(1))
    return samples(features + torch.eye(3, width)[LABELS], LABELS, groups=groups)


def squared_l2(inputs: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    lengths = means.square().sum(dim=-1)
    return 2 * inputs @ means.transpose(1, 2) - lengths[:, None]


def test_blocks_hold_every_row_once_and_groups_whole() -> None:
    groups = torch.tensor([4, 4, 0, 9, 0, 4, 2])
    blocks = list(group_blocks(groups, 1))
    assert sorted(torch.cat([b.flatten() for b in blocks]).tolist()) == list(range(7))
    for block in blocks:
        assert all(len(set(groups[row].tolist())) == 1 for row in block)
    huge = list(group_blocks(torch.arange(10), 1 << 21))
    assert [len(block) for block in huge] == [2] * 5


def test_means_without_the_group_equal_fitting_again() -> None:
    given = data()
    found = leave_out_means(given, 3, squared_l2)
    for row in range(len(LABELS)):
        kept = given.groups != given.groups[row]
        for label in range(3):
            inside = given.features[kept & (label == LABELS)]
            mean = inside.mean(dim=0)
            wanted = 2 * given.features[row] @ mean - mean @ mean if len(inside) else NEVER
            assert float(found[row, label]) == pytest.approx(float(wanted), rel=1e-8, abs=1e-8)


def test_folds_keep_groups_whole_and_spread_every_class() -> None:
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor([60, 10]))
    groups = torch.arange(70) // 2
    folds = folds_of_groups(groups, labels, count=5, generator=seeded())
    assert torch.equal(folds[0::2], folds[1::2])
    assert torch.bincount(folds[labels == 0], minlength=5).tolist() == [12] * 5
    assert torch.bincount(folds[labels == 1], minlength=5).tolist() == [2] * 5


def test_folds_answer_each_row_by_a_fit_without_it() -> None:
    given = data()
    seen: list[set[int]] = []

    def answer(fitted: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        assert not set(given.groups[fitted].tolist()) & set(given.groups[asked].tolist())
        seen.append(set(asked.tolist()))
        return asked[:, None].double()

    found = k_fold(given, answer, generator=seeded(), count=4)
    assert torch.equal(found[:, 0], torch.arange(len(LABELS)).double())
    assert len(seen) == 4


def test_a_single_group_is_refused_in_one_line() -> None:
    one = samples(torch.zeros(3, 1), torch.tensor([0, 1, 1]), groups=torch.zeros(3).long())
    with pytest.raises(ValueError, match="at least two groups of images; received 1"):
        k_fold(one, lambda fitted, asked: asked, generator=seeded())


def test_the_scale_ignores_factors_unjudged_classes_and_those_that_left() -> None:
    answers = torch.randn(len(LABELS), 4, generator=seeded(3), dtype=torch.float64)
    answers[torch.arange(len(LABELS)), LABELS] += 1.0
    answers[:, 3] = NEVER  # a class without images
    answers[-1, 2] = NEVER  # its class left with its group
    given = samples(torch.zeros(len(LABELS), 1), LABELS)  # class 2 has two images only
    scale, surprise = out_of_fold_scale(answers, given)
    other, same = out_of_fold_scale(torch.where(answers > NEVER, answers / 10, NEVER), given)
    assert (other, same) == (pytest.approx(10 * scale), pytest.approx(surprise))
    logits = scaled_logits(answers, scale, prior_offset(torch.tensor([12, 6, 2, 0]), 0.0))
    assert (logits[:, 3] == NEVER).all()
    assert logits[-1, 2] == NEVER


def test_the_scale_minimizes_the_balanced_surprise() -> None:
    answers = torch.randn(18, 2, generator=seeded(3), dtype=torch.float64)
    labels = LABELS[:18]
    answers[torch.arange(18), labels] += 1.0
    scale, surprise = out_of_fold_scale(answers, samples(torch.zeros(18, 1), labels))

    def at(factor: float) -> float:
        loss = torch.nn.functional.cross_entropy(factor * answers, labels, reduction="none")
        return float((loss[:12].mean() + loss[12:].mean()) / 2)

    assert surprise == pytest.approx(at(scale))
    # labels are smoothed by 1/19, so the scale is a little below the unsmoothed optimum
    assert at(scale) < min(at(scale / 2), at(scale * 2))
