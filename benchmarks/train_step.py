"""Images per second of the classify stage, compared with a plain PyTorch loop.

Goal: at least 0.97 times the images per second of a loop with the same network, augmentation,
batches and optimizer settings (``torch.optim.SGD``), in CPU time of one thread.

    python -m benchmarks.train_step [--repeats 5] [--samples 2560]

The time of the stage includes its other work: sampling an epoch, reports, the mean feature, checks
for NaN. Both sides must end with the same weights, up to rounding. The baseline of
`benchmarks/timm_train.py` is timm's ``train.py``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import numpy as np
import torch
from torch import nn

from benchmarks import print_row
from trainables.artifacts import Backbone, LabelledView
from trainables.context import Context, ambient_rng
from trainables.experiment import Classify, Training
from trainables.models.backbone import build_trunk, from_artifact, to_artifact
from trainables.stages import classify

CLASSES = 10
BATCH = 128
SETTINGS = Classify(
    training=Training(
        epochs=1, batch_size=BATCH, lr=0.05, precision="float32", layout="channels_last"
    )
)


def make_view(samples: int) -> LabelledView:
    """Return random images with labels; their content does not change the time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (samples, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, samples)
    return LabelledView(images, np.arange(samples), labels, CLASSES, "")


def ours(backbone: Backbone, view: LabelledView) -> dict[str, torch.Tensor]:
    """Train by the classify stage and return the backbone's weights."""
    nothing = view._replace(indices=view.indices[:0], labels=view.labels[:0])
    result = classify.run(
        SETTINGS, backbone=backbone, known_train=view, validation_known=nothing, context=Context()
    )
    return dict(result.backbone.state)


def by_hand(backbone: Backbone, view: LabelledView) -> dict[str, torch.Tensor]:
    """Train by a plain loop with the same random numbers and return the backbone's weights."""
    context, training = Context(), SETTINGS.training
    trunk = from_artifact(backbone).to(memory_format=torch.channels_last)
    with ambient_rng(context.generator("classify", "head")):
        head = SETTINGS.head.build(trunk.num_features, CLASSES)
    parameters = [*trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(
        parameters, lr=training.lr, momentum=0.9, nesterov=True, weight_decay=training.weight_decay
    )
    images = torch.from_numpy(view.images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(view.labels)
    draws = context.generator("classify", "order", 0)
    batches = torch.randperm(len(labels), generator=draws).split(BATCH)
    trunk.train()
    for step, positions in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        batch = SETTINGS.augmentation(images=images[positions], generator=draws)  # type: ignore[operator]
        logits = head(trunk(batch.contiguous(memory_format=torch.channels_last)))
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits, labels[positions]).backward()
        optimizer.step()
    return dict(trunk.state_dict())


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest weight difference, relative to the largest weight of each tensor."""
    return max(
        float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-3))
        for name in other
        if other[name].is_floating_point()
    )


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2560)
    options = parser.parse_args()
    torch.set_num_threads(1)
    passed = True
    for name in ("fastnet", "resnet32"):
        view = make_view(options.samples)
        trunk = build_trunk(name, 32, generator=Context().generator("trunk"))
        backbone = to_artifact(trunk, name, 32)
        sides = {"ours": ours, "plain loop": by_hand}
        few = make_view(BATCH)
        difference = farthest(
            ours(backbone, few), by_hand(backbone, few)
        )  # one step; also warms up
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side, train in sides.items():
                start = time.process_time()
                train(backbone, view)
                times[side].append(time.process_time() - start)
        more = {"images": options.samples, "largest_difference": difference}
        correct = difference < 1e-3
        passed &= print_row(f"train_step/{name}", "plain loop", times, correct=correct, **more)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
