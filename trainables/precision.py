"""How a network computes fastest here: number type and memory layout, measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PROBE_SECONDS = 1.0
MOST_ROUNDS = 8
FAR_BEHIND = 1.25  # times the fastest: more than the noise between two steps
SMALL_BATCH = 1.05  # channels-last gains with the batch, and a probe's is small
WORTH_PROBING = 20_000  # images; a CPU trains on fewer in less time than the probe could save
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Precision(NamedTuple):
    """How a trunk computes: ``dtype`` under autocast, and the layout of weights and images."""

    dtype: torch.dtype
    memory_format: torch.memory_format


def resolve_precision(
    trunk: nn.Module,
    precision: str = "auto",
    layout: str = "auto",
    *,
    batch_size: int,
    image_size: int,
    device: torch.device | str = "cpu",
    budget_images: int | None = None,
) -> Precision:
    """Turn the settings ``precision`` and ``layout`` into a choice; ``auto`` measures.

    A measured choice depends on the machine, and bfloat16 changes results: record what came out.

    Args:
        trunk: The network that will train.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        layout: ``auto``, ``contiguous`` or ``channels_last``.
        batch_size: Of the training.
        image_size: Of the training.
        device: Of the training.
        budget_images: How many images the training will see. Below 20,000 measuring costs more
            than it saves, and ``auto`` is float32 and channels-last, the same on every
            machine; ``None`` always measures.
    """
    dtypes = [_DTYPES[precision]] if precision != "auto" else list(_DTYPES.values())
    layouts = [_LAYOUTS[layout]] if layout != "auto" else list(_LAYOUTS.values())
    if len(dtypes) * len(layouts) == 1:
        return Precision(dtypes[0], layouts[0])
    if budget_images is not None and budget_images < WORTH_PROBING:
        dtype = torch.float32 if precision == "auto" else dtypes[0]
        return Precision(dtype, torch.channels_last if layout == "auto" else layouts[0])
    candidates = [Precision(dtype, format_) for dtype in dtypes for format_ in layouts]
    return probe_precision(trunk, batch_size, device, image_size=image_size, candidates=candidates)


def probe_precision(
    trunk: nn.Module,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    image_size: int = 32,
    candidates: Sequence[Precision] = (),
) -> Precision:
    """Time training steps of each candidate on a copy of the trunk and return the fastest.

    One warm-up step, then up to eight rounds of timed steps, interleaved, for about a second on a
    CPU; what is a quarter slower than the fastest in one round is not timed again, and of two that
    are as good as equal it is channels-last. bfloat16 means autocast, weights stay float32; it is
    left out where one convolution shows that the processor only emulates it.

    Args:
        trunk: The network; neither weights nor statistics change.
        batch_size: Of the training; on a CPU the probe takes as many of it as fit the second.
        device: Where to measure.
        image_size: Height and width of the images.
        candidates: What to choose from; by default float32 and bfloat16, contiguous and
            channels-last.
    """
    device = torch.device(device)
    chosen = list(candidates) or [
        Precision(dtype, layout) for dtype in _DTYPES.values() for layout in _LAYOUTS.values()
    ]
    on_cpu = device.type == "cpu"
    # Dropout and initial weights draw from the global generators: give them back as they were.
    with torch.random.fork_rng([] if on_cpu else [device.index or 0], device_type=device.type):
        if len({choice.dtype for choice in chosen}) > 1 and _emulates_bfloat16(device):
            chosen = [choice for choice in chosen if choice.dtype == torch.float32]
        shape = (max(batch_size, 2), 3, image_size, image_size)
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        return _race(trunk, images, chosen)


def _race(trunk: nn.Module, images: Tensor, chosen: list[Precision]) -> Precision:
    """Return the candidate with the shortest step."""
    copies = [
        copy.deepcopy(trunk).to(images.device).to(memory_format=choice.memory_format).train()
        for choice in chosen
    ]
    if images.device.type == "cpu":
        images = images[: _affordable_batch(copies[0], images, chosen[0].dtype)]
    best = [float("inf")] * len(chosen)
    racing, end = list(range(len(chosen))), time.perf_counter() + PROBE_SECONDS
    for turn in range(1 + MOST_ROUNDS):
        for number in racing:
            seconds = _time_step(copies[number], images, chosen[number].dtype)
            if turn:  # the first step pays for the kernels' set-up
                best[number] = min(best[number], seconds)
        if turn and time.perf_counter() > end:
            break
        if turn:  # what is far behind leaves the time to those that are close
            racing = [number for number in racing if best[number] <= FAR_BEHIND * min(best)]
        if len(racing) == 1:
            break
    scores = [
        seconds * (1.0 if choice.memory_format is torch.channels_last else SMALL_BATCH)
        for seconds, choice in zip(best, chosen, strict=True)
    ]
    return chosen[scores.index(min(scores))]


def _affordable_batch(module: nn.Module, images: Tensor, dtype: torch.dtype) -> int:
    """Return how many images a step of 1/20 of the probe's time takes, from 2 to 32."""
    few = images[:2].expand(2, -1, -1, -1)  # BatchNorm needs two
    seconds = min(_time_step(module, few, dtype) for _ in range(2))
    return max(2, min(32, len(images), round(2 * PROBE_SECONDS / 20 / max(seconds, 1e-6))))


def _emulates_bfloat16(device: torch.device) -> bool:
    """Say whether one convolution is three times slower in bfloat16 than in float32."""
    if device.type != "cpu":
        return False
    convolution = nn.Conv2d(16, 16, 3, padding=1)
    maps = torch.zeros(4, 16, 16, 16)
    times = {
        dtype: min(_time_step(convolution, maps, dtype) for _ in range(3))
        for dtype in _DTYPES.values()
    }
    return times[torch.bfloat16] > 3.0 * times[torch.float32]


def _time_step(module: nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    """Return the seconds of one forward and backward pass (CPU time on a CPU)."""
    device = images.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        features = module(images)
    features.float().square().mean().backward()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - start
