"""Answers to training images by fits that lack the image's group: means, neighbors, and folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.groups import (
    BLOCK_ELEMENTS,
    folds_of_groups,
    group_blocks,
    judging,
)
from trainables.closed_form.scale import NEVER, fit_scale
from trainables.closed_form.statistics import Samples

FOLDS = 5


def leave_out_means(
    data: Samples, num_classes: int, logits: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the logits of each sample from class means that lack the sample's group, exactly.

    Args:
        data: The samples, of weight 1.
        num_classes: C.
        logits: Maps inputs ``[B, M, D]`` and means ``[B, K, D]`` to logits ``[B, M, K]``; the
            means are those of K classes, each column from one of them alone.

    Returns:
        ``[N, C]`` float64; a class that leaves with the group has `NEVER`.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> data = samples(torch.tensor([[1.0], [3.0], [8.0], [8.0]]), torch.tensor([0, 0, 1, 1]))
        >>> leave_out_means(data, 2, lambda inputs, means: inputs @ means.transpose(1, 2)).tolist()
        [[3.0, 8.0], [3.0, 24.0], [16.0, 64.0], [16.0, 64.0]]
    """
    counts = torch.bincount(data.labels, minlength=num_classes).double()
    sums = torch.zeros(num_classes, data.width).to(counts)
    for block in data.blocks():
        sums.index_add_(0, data.labels[block], data.inputs(block))
    means = sums / counts.clamp_min(1)[:, None]
    result = sums.new_empty(len(data.labels), num_classes)
    for rows in group_blocks(data.groups, max(data.width, num_classes)):
        inputs, labels = data.inputs(rows.flatten()).unflatten(0, rows.shape), data.labels[rows]
        same = (labels[:, :, None] == labels[:, None, :]).to(inputs)
        after = counts[labels] - same.sum(dim=2)
        own = (sums[labels] - same @ inputs) / after.clamp_min(1)[:, :, None]
        answers = logits(inputs, means.expand(len(rows), -1, -1))
        answers = answers.masked_fill(counts == 0, NEVER)
        changed = logits(inputs, own).masked_fill((after == 0)[:, None], NEVER)
        answers = answers.scatter(2, labels[:, None].expand_as(changed), changed)
        result[rows.flatten()] = answers.flatten(0, 1)
    return result


def k_fold(
    data: Samples,
    answer: Callable[[Tensor, Tensor], Tensor],
    *,
    generator: torch.Generator,
    count: int = FOLDS,
) -> Tensor:
    """Return answers ``[N, C]`` to each sample by one of ``count`` fits that lack its group.

    Args:
        data: All samples.
        answer: Fits on some rows and answers to others: ``(fitted rows, asked rows) -> [n, C]``.
        generator: Draws the folds; see `folds_of_groups`.
        count: Number of folds, at most the number of groups.

    Raises:
        ValueError: There are fewer than two groups.
    """
    groups = len(data.groups.unique())
    if groups < 2:
        raise ValueError(
            f"out-of-fold answers need at least two groups of images; received {groups}"
        )
    folds = folds_of_groups(data.groups, data.labels, count=min(count, groups), generator=generator)
    parts = [(folds == fold).nonzero().flatten() for fold in range(min(count, groups))]
    answers = [answer((folds != fold).nonzero().flatten(), rows) for fold, rows in enumerate(parts)]
    return torch.cat(answers)[torch.cat(parts).argsort()]


class Scaled(NamedTuple):
    """The factor that makes answers logits, and how well they then fit.

    Attributes:
        scale: Factor under which the answers are likeliest.
        surprise: Mean over the judged classes of their mean cross-entropy under that factor.
    """

    scale: float
    surprise: float


def out_of_fold_scale(answers: Tensor, data: Samples, *, balanced: bool = True) -> Scaled:
    """Fit the scale of out-of-fold answers on samples of `judging` classes.

    Without a judged class the scale is 1 and the surprise 0.

    Args:
        answers: Out-of-fold answers ``[N, C]``; classes without images have `NEVER`.
        data: The samples.
        balanced: Each class counts alike, for answers that assume equally frequent classes;
            otherwise each sample.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> answers = torch.eye(2).double()[[0, 0, 1, 1, 1, 0]]  # two of three are right
        >>> scale, surprise = out_of_fold_scale(answers, samples(torch.zeros(6, 1), labels))
        >>> round(scale, 2), round(surprise, 2)
        (0.59, 0.64)
    """
    rows = judging(data, answers.shape[1])
    if not bool(rows.any()):
        return Scaled(1.0, 0.0)
    possible = torch.zeros(answers.shape[1], dtype=torch.bool, device=answers.device)
    for block in answers.split(_rows_at_once(answers)):
        possible |= (block > NEVER).any(dim=0)
    labels = (possible.cumsum(0) - 1)[data.labels[rows]]
    finite = _finite(answers, rows, possible)
    weights = data.weights[rows]
    alike = weights / torch.bincount(labels, weights)[labels]
    scale = fit_scale(finite, labels, alike if balanced else weights)
    surprise = torch.cat(
        [
            torch.nn.functional.cross_entropy(scale * part, of_part, reduction="none")
            for part, of_part in zip(
                finite.split(_rows_at_once(finite)),
                labels.split(_rows_at_once(finite)),
                strict=True,
            )
        ]
    )
    return Scaled(scale, float((surprise * alike).sum() / alike.sum()))


def _rows_at_once(answers: Tensor) -> int:
    return max(1, BLOCK_ELEMENTS // max(answers.shape[1], 1))


def _finite(answers: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return chosen rows and columns; a class that left is as unlikely as the unlikeliest other.

    Answers to a hundred million pairs of sample and class are not copied where all are chosen.
    """
    if not bool(rows.all()):
        answers = answers[rows]
    if not bool(columns.all()):
        answers = answers[:, columns]
    if float(answers.min()) > NEVER:
        return answers
    gone = answers == NEVER
    lowest = torch.where(gone, torch.inf, answers).amin(dim=1, keepdim=True)
    return torch.where(gone, lowest, answers)


def prior_offset(counts: Tensor, prior: float) -> Tensor:
    """Return ``prior log(n_c / N)`` ``[C]``, float64; `NEVER` for an absent class.

    Example:
        >>> prior_offset(torch.tensor([3.0, 0.0, 1.0]), 1.0).exp().tolist()
        [0.75, 0.0, 0.25]
    """
    share = counts.double() / counts.sum().clamp_min(1)
    return torch.where(counts > 0, prior * share.clamp_min(1e-300).log(), NEVER)


def scaled_logits(answers: Tensor, scale: float, offset: Tensor) -> Tensor:
    """Return ``scale * answers + offset`` ``[N, C]``; a class that left has `NEVER`."""
    logits = torch.add(offset, answers, alpha=scale)  # one tensor of that size and no more
    return logits.masked_fill_(answers <= NEVER, NEVER)
