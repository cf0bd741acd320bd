"""One GPU: a whole training beside an ordinary script and a limit, and augmentation in it.

Goals, set for an H200 and never measured on one: ResNet-32 on CIFAR-10-LT with factor 100 (12,406
images, 200 epochs) in 25 s and a third of the time of a loop with a DataLoader, ResNet-18 in 45 s;
crop, flip and RandAugment at most 5 % of a training. What several trials share is in
``gpu_trials``, what is computed on features in ``gpu_features``.

    python -m benchmarks.gpu [--epochs 12] [--repeats 3] [--data FOLDER] [--device cuda] [--small]

Of the 200 epochs ``--epochs`` are trained: the first ones, with all that is done once, count as
they are, and the median of the later ones for all others. Without ``--data`` images are random:
what they show costs nothing. Without a GPU there is one line and nothing is measured; ``--device
cpu --small`` runs the same code on little, and asks for no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import print_row
from benchmarks.heads import Case
from benchmarks.loader import PilImages, pil_pipeline, read_images
from trainables.artifacts import LabelledView
from trainables.context import Context
from trainables.data.loader import Loader
from trainables.experiment import Classify, Training
from trainables.methods.augmentations.rand_augment import RandAugment
from trainables.models.backbone import build_trunk, to_artifact
from trainables.stages import classify

CLASSES, EPOCHS, ONCE = 10, 200, 3  # epochs of the recipe; the first ones pay what is paid once
PUBLISHED = {
    "benchmark": "gpu/airbench94_muon",
    "published": "94.01 % on CIFAR-10 in 2.59 s, one A100",
    "source": "KellerJordan/cifar10-airbench, README",
}


class Size(NamedTuple):
    """How much is computed; ``trunks`` are a small and a large network, with their limits."""

    trunks: dict[str, float]
    images: int
    batch: int
    trials: int
    heads: Case
    head_samples: int
    queries: int
    bank: int
    width: int
    clusters: int


WHOLE = Size(
    trunks={"resnet32": 25.0, "resnet18_small": 45.0},
    images=12_406,
    batch=128,
    trials=8,
    heads=Case(512, 100, 256, 10, ("lean loop",)),
    head_samples=50_000,
    queries=10_000,
    bank=50_000,
    width=512,
    clusters=100,
)
SMALL = Size({"fastnet": 25.0}, 24, 8, 2, Case(8, 4, 12, 1, ("lean loop",)), 200, 20, 100, 8, 5)


def settings(size: Size, epochs: int) -> Classify:
    """Return the recipe of all sides: SGD, crop and flip."""
    training = Training(epochs=epochs, batch_size=size.batch, lr=0.05, layout="channels_last")
    return Classify(training=training)


def make_view(images: np.ndarray) -> LabelledView:
    """Return images with labels."""
    labels = np.random.default_rng(1).integers(0, CLASSES, len(images))
    return LabelledView(images, np.arange(len(images)), labels, CLASSES, "")


class Trained(NamedTuple):
    """Seconds at which each epoch ended, from the start, and the last report."""

    ends: list[float]
    report: Mapping[str, float]


def train(name: str, view: LabelledView, recipe: Classify, device: torch.device) -> Trained:
    """Train by the stage."""
    trunk = build_trunk(name, view.images.shape[1], generator=Context().generator("trunk"))
    backbone = to_artifact(trunk, name, view.images.shape[1])
    nothing = view._replace(indices=view.indices[:0], labels=view.labels[:0])
    ends, reports = [], []

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        ends.append(time.perf_counter() - start)  # the epoch's loss was waited for
        reports.append(metrics)

    context = Context(device=device, report=report)
    start = time.perf_counter()
    classify.run(
        recipe, backbone=backbone, known_train=view, validation_known=nothing, context=context
    )
    return Trained(ends, reports[-1])


def whole_training(ends: list[float]) -> float:
    """Return the seconds of all epochs, of those that were trained."""
    later = [end - before for before, end in pairwise(ends[ONCE - 1 :])]
    return ends[ONCE - 1] + (EPOCHS - ONCE) * statistics.median(later)


class _Labelled(Dataset[tuple[torch.Tensor, int]]):
    """PIL images with labels, as torchvision's CIFAR classes serve them."""

    def __init__(self, view: LabelledView) -> None:
        images = view.images[view.indices]
        self.images = PilImages(images, pil_pipeline("crop_flip", images.shape[1]))
        self.labels = view.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


def by_hand(name: str, view: LabelledView, epochs: int, size: Size, device: torch.device) -> float:
    """Train as an ordinary script does and return the seconds of a whole training."""
    on_gpu = device.type == "cuda"
    loader = DataLoader(
        _Labelled(view),
        batch_size=size.batch,
        shuffle=True,
        num_workers=min(8, os.cpu_count() or 1) if on_gpu else 0,
        pin_memory=on_gpu,
        persistent_workers=on_gpu,
    )
    trunk = build_trunk(name, view.images.shape[1])
    model = nn.Sequential(trunk.network, nn.Linear(trunk.num_features, CLASSES)).to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    ends, start = [], time.perf_counter()
    for _ in range(epochs):
        total = torch.zeros((), device=device)
        for images, labels in loader:
            there = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, on_gpu):
                logits = model(there)
            loss = nn.functional.cross_entropy(logits.float(), labels.to(device, non_blocking=True))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        total.item()
        ends.append(time.perf_counter() - start)
    return whole_training(ends)


def timed(compute: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a computation, waited for."""
    start = time.perf_counter()
    compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print rows, and return the exit status."""
    options = read_options("gpu", __doc__)
    if options is None:
        return 0
    passed = all(trainings(options, make_view(options.images())))
    print(json.dumps(PUBLISHED), flush=True)
    return 0 if passed or options.small else 1


class Options(NamedTuple):
    """What is measured, where, and how often."""

    size: Size
    small: bool
    epochs: int
    repeats: int
    data: Path | None
    device: torch.device

    def images(self) -> np.ndarray:
        """Return the images to train on."""
        return read_images(self.data, self.size.images)[: self.size.images]


def read_options(name: str, description: str | None) -> Options | None:
    """Return the options of a benchmark of a GPU; say in a row that there is none, and ``None``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"benchmark": name, "skipped": "no GPU: torch sees no CUDA device"}))
        return None
    if given.epochs <= ONCE:
        parser.error(f"--epochs must be above {ONCE}; received {given.epochs}")
    torch.set_num_threads(1)
    size = SMALL if given.small else WHOLE
    return Options(size, given.small, given.epochs, given.repeats, given.data, device)


def trainings(options: Options, view: LabelledView) -> list[bool]:
    """Whole trainings, beside a plain loop and the limits, and the share of augmentation."""
    size, device, found = options.size, options.device, []
    for number, (name, limit) in enumerate(size.trunks.items()):
        ours, plain = [], []
        for _ in range(options.repeats):
            trained = train(name, view, settings(size, options.epochs), device)
            ours.append(whole_training(trained.ends))
            if number == 0:
                plain.append(by_hand(name, view, options.epochs, size, device))
        more: dict[str, object] = {
            "steps": trained.report["classify/steps"],
            "device": describe(device),
        }
        times = {"ours": ours, "DataLoader loop": plain, "limit": [limit]}
        for baseline in ("DataLoader loop", "limit") if number == 0 else ("limit",):
            found.append(print_row(f"gpu/{name}", baseline, times, **more))
        if number == 0:
            found.append(augmentation(options, view, statistics.median(ours) / EPOCHS))
    return found


def augmentation(options: Options, view: LabelledView, epoch: float) -> bool:
    """Augmentation beside the training epoch that it is part of."""
    device = options.device
    loader = Loader(view, batch_size=options.size.batch, augmentation=RandAugment(), device=device)
    draws = torch.Generator(device).manual_seed(0)
    order = torch.randperm(len(loader))

    def serve() -> None:
        for _ in loader.epoch(positions=order, generator=draws):
            pass

    serve()
    times = [timed(serve, device) for _ in range(options.repeats)]
    sides = {"ours": times, "training epoch": [epoch]}
    return print_row("gpu/augmentation", "training epoch", sides, lower_is_better=True)


def describe(device: torch.device) -> str:
    """Return the device's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    sys.exit(main())
