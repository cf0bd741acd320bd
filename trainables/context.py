"""What a stage may know of the world: device, seeds, ranks, a folder, and where to report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

Report = Callable[[Mapping[str, float], int], None]


def _no_report(metrics: Mapping[str, float], step: int) -> None:
    """Drop a report: the default of a context that nobody listens to."""


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for a named purpose, independent of call order and of other purposes.

    Args:
        seed: The run's seed.
        names: What the numbers are for, e.g. ``"classify", "augmentation", epoch``.

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
    """Everything a stage gets besides its settings and inputs.

    Args:
        device: Where tensors live during the stage.
        seed: The run's seed; every draw comes from `generator`.
        report: Receives metrics with their epoch, e.g. ``report({"classify/loss": 1.2}, 3)``.
        folder: A private folder for checkpoints of the running stage; ``None`` keeps none.
        rank: Number of this worker, from 0.
        world_size: Number of workers that run the stage together.
        checkpoint_seconds: Least time between two checkpoints of a training; 0 saves every epoch.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    report: Report = _no_report
    folder: Path | None = None
    rank: int = 0
    world_size: int = 1
    checkpoint_seconds: float = 2.0

    def generator(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        """Return a seeded generator for a named purpose (see `derive_seed`)."""
        return torch.Generator(device).manual_seed(derive_seed(self.seed, *names))

    def own_generator(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        """Return a generator that differs between workers, for augmentation and dropout."""
        own = ("rank", self.rank) if self.world_size > 1 else ()
        return self.generator(*names, *own, device=device)

    def alone(self) -> Context:
        """Return a context in which this worker works by itself."""
        return replace(self, rank=0, world_size=1)


@contextmanager
def ambient_rng(generator: torch.Generator) -> Iterator[None]:
    """Run a block with its device's ambient generator set from ``generator``, then restore it.

    For library code that draws from the ambient generator: module initialisers, dropout.
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
