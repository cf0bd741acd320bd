"""All classes of FeCAM: their Gaussians, the state of their head, and answers out of fold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.groups import BLOCK_ELEMENTS
from trainables.closed_form.mahalanobis import (
    Axes,
    ClassRows,
    Metric,
    Shrinkage,
    axes_of,
    class_rows,
    leave_out_distances,
    metric_of,
    signed_power,
    squared_distances,
)
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import Samples
from trainables.functional.l2_normalize import l2_normalize


class ClassGaussians(NamedTuple):
    """A Gaussian for each class, and the images that it was fitted to.

    Attributes:
        rows: The images' features.
        labels: ``[N]`` int64.
        counts: Images per class ``[C]``.
        means: Directions of the transformed class means ``[C, D]``; zero for an absent class.
        axes: Scatter of each class; ``None`` for an absent one.
        power: Of Tukey's transform.
    """

    rows: ClassRows
    labels: Tensor
    counts: Tensor
    means: Tensor
    axes: list[Axes | None]
    power: float


def class_gaussians(data: Samples, num_classes: int, *, power: float) -> ClassGaussians:
    """Fit a Gaussian to each class, in float64.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> data = samples(torch.tensor([[4.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))
        >>> class_gaussians(data, 2, power=0.5).means.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    rows, labels = class_rows(data.features, power), data.labels
    counts = torch.bincount(labels, minlength=num_classes)
    sums = rows.raw.new_zeros(num_classes, rows.raw.shape[1]).index_add_(0, labels, rows.raw)
    means = l2_normalize(signed_power(sums, power))  # a power of the mean has that direction too
    axes = [
        axes_of(rows.transformed[labels == label]) if counts[label] else None
        for label in range(num_classes)
    ]
    return ClassGaussians(rows, labels, counts, means, axes, power)


def head_state(fitted: ClassGaussians, shrinkage: Shrinkage) -> dict[str, Tensor]:
    """Return the state of a `MahalanobisHead` with a metric for each class; its scale is 1."""
    width = fitted.means.shape[1]
    ones = fitted.means.new_ones(width)
    plain = Metric(ones, ones[0], ones.new_zeros(0, width), ones.new_zeros(0))
    metrics = [metric_of(axes, shrinkage) if axes else plain for axes in fitted.axes]
    sizes = torch.tensor([len(metric.basis) for metric in metrics])
    numbers = torch.arange(len(metrics))
    state = {
        "weight": fitted.means,
        "metric_of": numbers,
        "deviation": torch.stack([metric.deviation for metric in metrics]),
        "precision": torch.stack([metric.precision for metric in metrics]),
        "basis": torch.cat([metric.basis for metric in metrics]),
        "reduction": torch.cat([metric.reduction for metric in metrics]),
        "basis_metric": numbers.repeat_interleave(sizes),
        "scale": torch.ones(()),
    }
    return {name: value.to(fitted.means.device) for name, value in state.items()}


def leave_out_answers(fitted: ClassGaussians, groups: Tensor, shrinkage: Shrinkage) -> Tensor:
    """Return the negative distances ``[N, C]`` of each image without its group, exactly.

    A class that is absent or leaves with the group has `NEVER`.
    """
    directions = fitted.rows.directions
    answers = directions.new_full((len(directions), len(fitted.means)), NEVER)
    for label, axes in enumerate(fitted.axes):
        if axes is None:
            continue
        metric = metric_of(axes, shrinkage)
        for block in torch.arange(len(directions)).split(BLOCK_ELEMENTS // directions.shape[1] + 1):
            differences = directions[block] - fitted.means[label]
            answers[block, label] = -squared_distances(metric, differences)
        touched, distances = leave_out_distances(
            fitted.rows,
            groups,
            fitted.labels == label,
            axes,
            shrinkage=shrinkage,
            power=fitted.power,
        )
        answers[touched, label] = torch.where(distances.isinf(), NEVER, -distances)
    return answers
