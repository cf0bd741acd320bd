"""Many linear heads trained in one batched computation, compared with one loop per head.

Goals: 120 heads with 64 features and 10 classes train at least 15 times faster than in a minimal
loop (sliced tensors, ``F.cross_entropy`` with class weights, ``torch.optim.SGD``) and 40 times
faster than in the same loop with a ``DataLoader``; with 512 features and 100 classes at least 1.4
times faster. On a GPU 256 heads train at least 100 times faster. Before any timing, the batched
weights must equal those of one-by-one training (within 1e-5 of the largest weight).

    python -m benchmarks.heads [--repeats 5] [--samples 12406] [--device cuda]

All sides use one thread, and their repeats alternate. Ratios are of median CPU time, which other
processes on a shared machine do not change; on a GPU they are of wall time, because the CPU only
waits. The heads differ in loss (class weights, prior, margin, focal power, smoothing), learning
rate and weight decay; the baselines train the class-weighted loss, the cheapest of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.goals import judged
from trainables.features.batched_heads import train_heads
from trainables.features.head_losses import HeadLoss
from trainables.features.head_training import HeadTrainingSpec, shuffled_draws, train_job
from trainables.models.head_modules import LinearHead

BATCH, EPOCHS = 128, 5


class Case(NamedTuple):
    """Numbers of features, classes, heads and epochs, and the baselines."""

    features: int
    classes: int
    heads: int
    epochs: int
    baselines: tuple[str, ...]


def row_name(case: Case) -> str:
    """Return the name of a case's rows."""
    return f"heads/{case.heads} at D={case.features} C={case.classes}"


CPU_CASES = (
    Case(64, 10, 120, EPOCHS, ("lean loop", "DataLoader loop")),
    Case(512, 100, 120, 1, ("lean loop",)),
)
GPU_CASES = (
    Case(64, 10, 256, EPOCHS, ("lean loop",)),
    Case(512, 100, 256, EPOCHS, ("lean loop",)),
)


class Data(NamedTuple):
    """Features and labels of long-tailed classes, and the sample order that all sides use."""

    features: Tensor
    labels: Tensor
    counts: Tensor
    draws: Tensor


def make_data(case: Case, samples: int, device: torch.device) -> Data:
    """Return random features of classes with exponentially decreasing sizes, factor 100."""
    generator = torch.Generator().manual_seed(0)
    share = 100.0 ** (-torch.arange(case.classes) / (case.classes - 1))
    labels = torch.multinomial(share, samples, replacement=True, generator=generator)
    labels[: case.classes] = torch.arange(case.classes)  # every class occurs
    noise = torch.randn(samples, case.features, generator=generator)
    directions = torch.randn(case.classes, case.features, generator=generator)
    features = (noise + directions[labels]).relu()
    draws = shuffled_draws(samples, epochs=case.epochs, generator=generator)
    counts = torch.bincount(labels, minlength=case.classes)
    return Data(*(t.to(device) for t in (features, labels, counts, draws)))


def jobs(case: Case, data: Data, count: int) -> list[HeadTrainingSpec]:
    """Return heads with the loss and learning-rate differences of a search's trials."""
    counts = data.counts.float()
    made = []
    for number in range(count):
        strength = 0.25 + 0.15 * (number // 6 % 5)
        loss = (
            HeadLoss(),
            HeadLoss(class_weights=counts.pow(-strength)),
            HeadLoss(offset=strength * (counts / counts.sum()).log()),
            HeadLoss(margin=strength * (counts / counts.min()).pow(-0.25)),
            HeadLoss(gamma=2 * strength),
            HeadLoss(smoothing=0.4 * strength * counts / counts.max()),
        )[number % 6]
        head = LinearHead(case.features, case.classes).to(data.features.device)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        lr = (0.05, 0.1, 0.2, 0.4)[number // 30 % 4]
        made.append(HeadTrainingSpec(head, data.draws, BATCH, lr, 5e-4, objective=loss))
    return made


def lean(case: Case, data: Data, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Train one head by a plain PyTorch loop."""
    head = torch.nn.Linear(case.features, case.classes).to(data.features.device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    weights = data.counts.float().pow(-0.5)
    for features, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(head(features), labels, weight=weights).backward()
        optimizer.step()


def sliced(data: Data) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield batches that are indexed from tensors in memory."""
    for batch in data.draws.split(BATCH):
        yield data.features[batch], data.labels[batch]


def loaded(case: Case, data: Data) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield batches of a DataLoader over the same tensors."""
    resident = TensorDataset(data.features, data.labels)
    for _ in range(case.epochs):
        yield from DataLoader(resident, batch_size=BATCH, shuffle=True)


def largest_difference(case: Case, data: Data) -> float:
    """Return the largest relative weight difference of batched and one-by-one training."""
    together = jobs(case, data, 12)
    alone = jobs(case, data, 12)
    train_heads(together, features=data.features, labels=data.labels)
    worst = 0.0
    for one, other in zip(together, alone, strict=True):
        train_job(other, features=data.features, labels=data.labels)
        expected = torch.cat([p.detach().flatten() for p in other.module.parameters()])
        found = torch.cat([p.detach().flatten() for p in one.module.parameters()])
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst


def measure(case: Case, data: Data, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return (CPU, wall) seconds per head of every side, one pair per repeat."""
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: train_heads(
            jobs(case, data, case.heads), features=data.features, labels=data.labels
        ),
        "lean loop": lambda: lean(case, data, sliced(data)),
        "DataLoader loop": lambda: lean(case, data, loaded(case, data)),
    }
    chosen = {name: sides[name] for name in ("ours", *case.baselines)}
    lean(case, data, list(sliced(data))[:2])  # warm-up: imports and first calls are not timed
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, side in chosen.items():
            synchronize(data)
            cpu, wall = time.process_time(), time.perf_counter()
            side()
            synchronize(data)
            heads = case.heads if name == "ours" else 1
            spent = time.process_time() - cpu, time.perf_counter() - wall
            times[name].append((spent[0] / heads, spent[1] / heads))
    return times


def synchronize(data: Data) -> None:
    """Wait until the device has finished, so that the timer includes its work."""
    if data.features.is_cuda:
        torch.cuda.synchronize()


def rows(
    case: Case, times: dict[str, list[tuple[float, float]]], *, on_gpu: bool, difference: float
) -> list[dict[str, object]]:
    """Return one row per baseline."""
    clock = 1 if on_gpu else 0
    found = []
    for baseline in case.baselines:
        medians = {name: statistics.median(t[clock] for t in times[name]) for name in times}
        walls = {name: statistics.median(t[1] for t in times[name]) for name in times}
        ratio = medians[baseline] / medians["ours"]
        spread = {
            name: round(max(t[clock] for t in times[name]) / min(t[clock] for t in times[name]), 2)
            for name in ("ours", baseline)
        }
        found.append(
            {
                "benchmark": row_name(case),
                "baseline": baseline,
                "milliseconds_per_head": {
                    n: round(1e3 * medians[n], 2) for n in ("ours", baseline)
                },
                "wall_ratio": round(walls[baseline] / walls["ours"], 2),
                "clock": "wall" if on_gpu else "cpu",
                "largest_difference": difference,
                "spread": spread,
                "ratio": ratio,
                **judged(row_name(case), baseline, ratio, correct=difference < 1e-5),
                "repeats": len(times["ours"]),
                "torch": torch.__version__,
                "machine": torch.cuda.get_device_name() if on_gpu else platform.machine(),
            }
        )
    return found


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=12406)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    status = 0
    for case in GPU_CASES if on_gpu else CPU_CASES:
        data = make_data(case, options.samples, device)
        difference = largest_difference(case, data)
        times = measure(case, data, options.repeats)
        for row in rows(case, times, on_gpu=on_gpu, difference=difference):
            print(json.dumps(row), flush=True)
            status = status if row["passed"] else 1
    return status


if __name__ == "__main__":
    sys.exit(main())
