"""Several equal trainings as one on a GPU, beside the same trainings one at a time.

Goal, set for an H200 and never measured on one: 8 trainings of ResNet-32 on 12,406 images, equal
but for their seeds, at least 3 times the images per second of one.

    python -m benchmarks.gpu_fused [--epochs 12] [--repeats 3] [--data FOLDER] [--device cuda]
        [--small]

One process trains them with `trainables.fused_classify`. An epoch's time is the median of those
after the first ones, of all trainings together divided by their number. Before the clock starts,
a few steps of both sides are compared. Without ``--data`` images are random: what they show costs
nothing. Without a GPU there is one line; ``--device cpu --small`` runs the code on little.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from itertools import pairwise

import torch

from benchmarks import print_row
from benchmarks.gpu import (
    FARTHEST,
    ONCE,
    Options,
    Trained,
    describe,
    make_view,
    read_options,
    settings,
    train,
)
from benchmarks.train_step import farthest
from trainables.artifacts import LabelledView
from trainables.backbone import build_trunk, to_artifact
from trainables.context import Context
from trainables.experiment import Classify
from trainables.fused_classify import Given, run_together
from trainables.stages.classify import Classified


def train_fused(
    name: str, view: LabelledView, recipe: Classify, device: torch.device, models: int
) -> Trained:
    """Train so many at once; the report and the weights are those of the first."""
    nothing = view._replace(indices=view.indices[:0], labels=view.labels[:0])
    ends, reports = [], []

    def first(metrics: Mapping[str, float], epoch: int) -> None:
        reports.append(metrics)

    def last(metrics: Mapping[str, float], epoch: int) -> None:
        ends.append(time.perf_counter() - start)

    given = []
    for seed in range(models):
        trunk = build_trunk(
            name, view.images.shape[1], generator=Context(seed=seed).generator("trunk")
        )
        report = {0: first, models - 1: last}.get(seed, lambda metrics, epoch: None)
        context = Context(device=device, seed=seed, report=report)
        given.append(Given(to_artifact(trunk, name, view.images.shape[1]), view, nothing, context))
    start = time.perf_counter()
    result = run_together(recipe, given)[0]
    if not isinstance(result, Classified):
        raise SystemExit(f"gpu_fused: {result}")
    return Trained(ends, reports[-1], dict(result.backbone.state))


def epoch_seconds(trained: Trained) -> float:
    """Return the seconds of an epoch, past the first ones."""
    return statistics.median(end - before for before, end in pairwise(trained.ends[ONCE - 1 :]))


def fused_equals_alone(options: Options, name: str, view: LabelledView) -> float:
    """Return how far two steps together are from those of the first model alone, relatively."""
    size, part = options.size, slice(2 * options.size.batch)
    few = view._replace(indices=view.indices[part], labels=view.labels[part])
    recipe = settings(size, 1, step="eager", precision="float32")
    usual, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    alone = train(name, few, recipe, options.device)
    group = train_fused(name, few, recipe, options.device, 2)
    torch.backends.cudnn.allow_tf32 = usual
    return farthest(group.state, alone.state)


def fused(options: Options) -> bool:
    """Print how long an epoch takes in a group, and say whether the goal is reached."""
    size, device, view = options.size, options.device, make_view(options.images())
    name, recipe = next(iter(size.trunks)), settings(size, options.epochs)
    difference = fused_equals_alone(options, name, view)
    times: dict[str, list[float]] = {"ours": [], "one at a time": []}
    for _ in range(options.repeats):
        group = train_fused(name, view, recipe, device, size.trials)
        times["ours"].append(epoch_seconds(group) / size.trials)
        times["one at a time"].append(epoch_seconds(train(name, view, recipe, device)))
    return print_row(
        f"gpu/{size.trials} fused {name}",
        "one at a time",
        times,
        goal=3.0,
        correct=difference < FARTHEST,
        largest_difference=difference,
        steps=group.report["classify/steps"],
        recorded_steps=group.report.get("classify/steps_graph", 0.0),
        device=describe(device),
    )


def main() -> int:
    """Measure, print the row, and return the exit status."""
    options = read_options("gpu_fused", __doc__)
    if options is None:
        return 0
    passed = fused(options)
    return 0 if passed or options.small else 1


if __name__ == "__main__":
    sys.exit(main())
