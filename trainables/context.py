"""`Context` of a stage: device, seed, rank, checkpoint folder and report function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Report = Callable[[Mapping[str, float], int], None]
Progress = Callable[[int, int], None]


def _no_report(metrics: Mapping[str, float], step: int) -> None:
    """Ignore a report; the default of `Context.report`."""


def _no_progress(done: int, total: int) -> None:
    """Ignore progress; the default of `Context.progress`."""


class FeatureStore(Protocol):
    """Features that were computed before, by the names of a trunk and of images.

    See `trainables.models.extraction.stored_features`. ``readings`` says whether a search will ask
    for other layers and poolings of the trunks, whose features are then kept with each pass.
    """

    readings: bool

    def read(
        self, trunk: str, images: Sequence[bytes], into: Tensor
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Fill the rows ``[N, D]`` of the images that are stored; return which are ``[N]``."""
        ...

    def write(self, trunk: str, images: Sequence[bytes], features: Tensor) -> None:
        """Store the features ``[N, D]`` float32 of images."""
        ...

    def alone(self, name: str) -> AbstractContextManager[None]:
        """Return a block that one process at a time is in, of all that use the store and name."""
        ...


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for a named purpose, independent of call order and of other purposes.

    Args:
        seed: The run's seed.
        names: Purpose of the random numbers, e.g. ``"classify", "augmentation", epoch``.

    Example:
        >>> derive_seed(0, "classify") == derive_seed(0, "classify")
        True
        >>> derive_seed(0, "classify") == derive_seed(0, "update")
        False
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Context:
    """Arguments of a stage besides its settings and inputs.

    Args:
        device: Device of the computations.
        seed: The run's seed; all random numbers are drawn by `generator`.
        report: Function of metrics and epoch, e.g. ``report({"classify/loss": 1.2}, 3)``.
        folder: Folder for checkpoints of the running stage; ``None`` writes no checkpoints.
        rank: Rank of this worker, from 0.
        world_size: Number of workers that run the stage together.
        checkpoint_seconds: Smallest time between two checkpoints; 0 saves after every epoch.
        progress: Function of the images that a stage is done with, and of all that it has.
        features: Features of frozen trunks, to be read and added to; ``None`` keeps none.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    report: Report = _no_report
    folder: Path | None = None
    rank: int = 0
    world_size: int = 1
    checkpoint_seconds: float = 2.0
    progress: Progress = _no_progress
    features: FeatureStore | None = None

    def generator(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        """Return a seeded generator for a named purpose (see `derive_seed`)."""
        return torch.Generator(device).manual_seed(derive_seed(self.seed, *names))

    def own_generator(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        """Return a generator that differs between workers, for augmentation and dropout."""
        worker = ("rank", self.rank) if self.world_size > 1 else ()
        return self.generator(*names, *worker, device=device)

    def alone(self) -> Context:
        """Return a context with this worker as the only one."""
        return replace(self, rank=0, world_size=1)


@contextmanager
def ambient_rng(generator: torch.Generator) -> Iterator[None]:
    """Set the state of torch's global generator from ``generator`` within a block.

    For library code that draws from the global generator of the device: module initialization and
    dropout. The global generator's state is restored afterwards.
    """
    device = generator.device
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng(
        devices=[] if on_cpu else [device.index or 0], device_type="cuda" if on_cpu else device.type
    ):
        if on_cpu:
            torch.set_rng_state(generator.get_state())
        else:
            torch.get_device_module(device).set_rng_state(generator.get_state(), device)
        yield
