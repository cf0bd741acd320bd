"""In which number type and memory layout a network trains: as set, by rule, or measured.

A measured choice depends on the machine, and bfloat16 changes results. So it is made before a stage
starts, is a part of the stage's settings from then on, and of its key (see `trainables.pipeline`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PROBE_SECONDS = 1.0
MOST_ROUNDS = 8
FAR_BEHIND = 1.25  # multiple of the fastest step time; more than the noise between two steps
SMALL_BATCH = 1.05  # channels-last gains with the batch size, and the probe's batch is small
WORTH_PROBING = 20_000  # images; on fewer, a probe takes longer than the time it could save
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class ComputeFormat(NamedTuple):
    """``dtype`` of a trunk under autocast, and the memory layout of weights and images."""

    dtype: torch.dtype
    memory_format: torch.memory_format


class Race(NamedTuple):
    """What a measured choice depends on beside the machine; ``auto`` is what is left to it."""

    architecture: str
    image_size: int
    batch_size: int
    precision: str = "auto"
    layout: str = "auto"


def compute_format(precision: str, layout: str) -> ComputeFormat:
    """Return the format of two settings without measuring: ``auto`` is float32, channels-last.

    Example:
        >>> compute_format("bfloat16", "auto")
        ComputeFormat(dtype=torch.bfloat16, memory_format=torch.channels_last)
    """
    dtype = torch.float32 if precision == "auto" else _DTYPES[precision]
    return ComputeFormat(dtype, _LAYOUTS["channels_last" if layout == "auto" else layout])


def format_names(choice: ComputeFormat) -> tuple[str, str]:
    """Return the settings ``precision`` and ``layout`` of a format.

    Example:
        >>> format_names(compute_format("float32", "auto"))
        ('float32', 'channels_last')
    """
    (precision,) = (name for name, dtype in _DTYPES.items() if dtype == choice.dtype)
    (layout,) = (name for name, kind in _LAYOUTS.items() if kind == choice.memory_format)
    return precision, layout


def run_race(trunk: nn.Module, race: Race, device: torch.device | str = "cpu") -> ComputeFormat:
    """Measure what a race leaves open and return the fastest format.

    Args:
        trunk: A network of the race's architecture; neither weights nor statistics change.
        race: The settings.
        device: Device of the training.
    """
    dtypes = [_DTYPES[race.precision]] if race.precision != "auto" else list(_DTYPES.values())
    layouts = [_LAYOUTS[race.layout]] if race.layout != "auto" else list(_LAYOUTS.values())
    candidates = [ComputeFormat(dtype, format_) for dtype in dtypes for format_ in layouts]
    if len(candidates) == 1:
        return candidates[0]
    return probe_precision(
        trunk, race.batch_size, device, image_size=race.image_size, candidates=candidates
    )


def probe_precision(
    trunk: nn.Module,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    image_size: int = 32,
    candidates: Sequence[ComputeFormat] = (),
) -> ComputeFormat:
    """Time training steps of each candidate on a copy of the trunk and return the fastest.

    After one warm-up step come up to eight rounds of timed steps of all candidates in turn, on a
    CPU for about a second. A candidate 25 % slower than the fastest one drops out; between nearly
    equal candidates channels-last wins. bfloat16 is autocast with float32 weights; it is skipped if
    one convolution shows that the processor only emulates bfloat16.

    Args:
        trunk: The network; neither weights nor statistics change.
        batch_size: Batch size of the training; on a CPU the probe uses as many of these images as
            fit into its second.
        device: Device to measure on.
        image_size: Height and width of the images.
        candidates: Formats to choose from; by default float32 and bfloat16, each contiguous and
            channels-last.
    """
    device = torch.device(device)
    chosen = list(candidates) or [
        ComputeFormat(dtype, layout) for dtype in _DTYPES.values() for layout in _LAYOUTS.values()
    ]
    on_cpu = device.type == "cpu"
    # dropout draws from the global generators, whose states are restored
    with torch.random.fork_rng([] if on_cpu else [device.index or 0], device_type=device.type):
        if len({choice.dtype for choice in chosen}) > 1 and _emulates_bfloat16(device):
            chosen = [choice for choice in chosen if choice.dtype == torch.float32]
        shape = (max(batch_size, 2), 3, image_size, image_size)
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        return _race(trunk, images, chosen)


def _race(trunk: nn.Module, images: Tensor, chosen: list[ComputeFormat]) -> ComputeFormat:
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
            if turn:  # the first step includes the set-up of the kernels
                best[number] = min(best[number], seconds)
        if turn and time.perf_counter() > end:
            break
        if turn:  # spend the remaining time on candidates that are close to the fastest
            racing = [number for number in racing if best[number] <= FAR_BEHIND * min(best)]
        if len(racing) == 1:
            break
    scores = [
        seconds * (1.0 if choice.memory_format is torch.channels_last else SMALL_BATCH)
        for seconds, choice in zip(best, chosen, strict=True)
    ]
    return chosen[scores.index(min(scores))]


def _affordable_batch(module: nn.Module, images: Tensor, dtype: torch.dtype) -> int:
    """Return the batch size, from 2 to 32, whose step takes 1/20 of the probe's time."""
    few = images[:2].expand(2, -1, -1, -1)  # BatchNorm needs two samples
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
    """Return the duration of a forward and backward pass in seconds (CPU time on a CPU)."""
    device = images.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        features = module(images)
    features.float().square().mean().backward()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - start
