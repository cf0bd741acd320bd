"""The dtype and memory layout that the probe chooses, compared with the fastest of four.

Goals: a training step in the chosen format takes at most 1.03 times the step in the fastest of
{float32, bfloat16} x {contiguous, channels-last}, and the probe takes less than two seconds.

    python -m benchmarks.precision [--repeats 5] [--device cpu]

A step is a forward and a backward pass of one batch; ratios are of median CPU time (on a GPU of
wall time). The probe and this benchmark drop bfloat16 if its first step is three times slower than
float32's: a processor that only emulates bfloat16 needs minutes per step.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

import torch
from torch import nn

from benchmarks import print_row
from trainables.context import Context
from trainables.models.backbone import build_trunk
from trainables.models.precision import ComputeFormat, probe_precision

MOST_SECONDS = 2.0
TRUNKS = ("fastnet", "resnet32", "resnet18_small", "efficientnet_b0")
GRID = [
    ComputeFormat(dtype, layout)
    for dtype, layout in itertools.product(
        (torch.float32, torch.bfloat16), (torch.contiguous_format, torch.channels_last)
    )
]


def step(trunk: nn.Module, images: torch.Tensor, choice: ComputeFormat) -> float:
    """Return the seconds of one forward and backward pass."""
    on_cpu = images.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    start = clock()
    with torch.autocast(
        images.device.type, choice.dtype, enabled=choice.dtype is not torch.float32
    ):
        features = trunk(images.contiguous(memory_format=choice.memory_format))
    features.float().square().mean().backward()
    if not on_cpu:
        torch.cuda.synchronize()
    return clock() - start


def race(name: str, images: torch.Tensor, repeats: int) -> dict[ComputeFormat, list[float]]:
    """Return the seconds of every repeat of every format; the repeats of formats alternate."""
    trunks = {
        choice: build_trunk(name, 32, generator=Context().generator("trunk"))
        .to(images.device, memory_format=choice.memory_format)
        .train()
        for choice in GRID
    }
    times: dict[ComputeFormat, list[float]] = {choice: [] for choice in GRID}
    first = {choice: step(trunks[choice], images[:2], choice) for choice in GRID}
    first = {choice: step(trunks[choice], images[:2], choice) for choice in GRID}
    usual = min(seconds for choice, seconds in first.items() if choice.dtype is torch.float32)
    raced = [choice for choice in GRID if first[choice] <= 3 * usual]
    for _ in range(repeats + 1):
        for choice in raced:
            times[choice].append(step(trunks[choice], images, choice))
    return {choice: times[choice][1:] for choice in raced}


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.zeros(options.batch, 3, 32, 32, dtype=torch.uint8, device=options.device)
    passed = True
    for name in TRUNKS:
        trunk = build_trunk(name, 32, generator=Context().generator("trunk")).to(options.device)
        start = time.perf_counter()
        chosen = probe_precision(trunk, options.batch, options.device, image_size=32)
        seconds = time.perf_counter() - start
        raced = race(name, images, options.repeats)
        best = min(raced, key=lambda choice: sorted(raced[choice])[len(raced[choice]) // 2])
        passed &= print_row(
            f"precision/{name}",
            "best of the grid",
            {"ours": raced[chosen], "best of the grid": raced[best]},
            lower_is_better=True,
            correct=seconds < MOST_SECONDS,
            chosen=[str(part) for part in chosen],
            best=[str(part) for part in best],
            raced=len(raced),
            probe_seconds=round(seconds, 2),
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
