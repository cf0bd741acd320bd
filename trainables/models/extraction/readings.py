"""Several layers and poolings of a frozen trunk, read in one pass over the images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.artifacts import content_digest
from trainables.errors import ConfigError
from trainables.models.extraction.stored_features import trunk_name
from trainables.weights.depth import leave_out
from trainables.weights.pooling import POOLINGS, set_pooling

LAYERS = (0, 1)  # stages or blocks that a search may leave out; earlier layers are seldom better
FAILURES = (AssertionError, AttributeError, RuntimeError, TypeError, ValueError)


class Reading(NamedTuple):
    """A trunk that has the weights of another one, with its last stages left out or pooled anew."""

    layer: int
    pooling: str
    trunk: Any


class Choices(NamedTuple):
    """What a search may choose from: numbers of stages left out, and ways of pooling."""

    layers: tuple[int, ...]
    poolings: tuple[str, ...]


class OnePass:
    """Features of a trunk, and of its other readings, from one pass of the trunk.

    Only readings that give bit by bit what they would give in a pass of their own are kept, which
    is tried on one image. Their weights are those of the trunk, in the same memory.

    Args:
        trunk: A trunk in evaluation mode with a network of timm; another one has no readings.
        image: ``[1, 3, H, W]``, on the trunk's device.
    """

    def __init__(self, trunk: Any, image: Tensor) -> None:
        self._trunk = trunk
        self._cuts: dict[int, Tensor] = {}  # what a shortened network's last stage gives
        self._readings: dict[str, Reading] = {}
        if trunk_splits(trunk, image):
            found = list(_others(trunk, image))
            with self._listening(found):
                self._last = self._features(image)
                self._readings = {
                    trunk_name(reading.trunk): reading
                    for reading in found
                    if torch.equal(self._read(reading), reading.trunk(image))
                }

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Return the readings beside the trunk's own."""
        return tuple(self._readings.values())

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the trunk's features ``[B, D]``, and float32 ones on the CPU by trunk name."""
        if not self._readings:
            return self._trunk(images), {}
        with self._listening(self.readings):
            self._last = self._features(images)
            own: Tensor = self._trunk.network.forward_head(self._last)
            others = {name: self._read(each).float().cpu() for name, each in self._readings.items()}
        self._cuts.clear()
        return own, others

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self._trunk.network.forward_features(self._trunk.normalize(images))
        return features

    def _read(self, reading: Reading) -> Tensor:
        """Return what follows the last stage of a reading: the final norm, then its pooling."""
        network = reading.trunk.network
        maps = self._last
        if reading.layer:
            norm = getattr(network, "norm", None)
            maps = self._cuts[reading.layer]
            maps = norm(maps) if isinstance(norm, nn.Module) else maps
        read: Tensor = network.forward_head(maps)
        return read

    @contextmanager
    def _listening(self, readings: Any) -> Iterator[None]:
        """Note what the first module that a shortened network lacks is given."""

        def note(layer: int) -> Any:
            return lambda module, given: self._cuts.__setitem__(layer, given[0])

        shortest = {each.layer: each.trunk.network for each in readings if each.layer}
        hooks = [
            _first_left_out(self._trunk.network, network).register_forward_pre_hook(note(layer))
            for layer, network in shortest.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def choices(trunk: Any, image: Tensor) -> Choices:
    """Return the layers and poolings of a trunk that its own pass gives beside its own.

    Args:
        trunk: The trunk in evaluation mode.
        image: ``[1, 3, H, W]``.
    """
    with torch.inference_mode():
        found = OnePass(trunk, image).readings
    layers = {0} | {reading.layer for reading in found}
    poolings = {r.pooling for r in found if all(_has(found, n, r.pooling) for n in layers)}
    return Choices(tuple(sorted(layers)), tuple(p for p in POOLINGS if p in poolings))


def _has(readings: tuple[Reading, ...], layer: int, pooling: str) -> bool:
    return any((each.layer, each.pooling) == (layer, pooling) for each in readings)


def family_name(trunk: Any) -> str:
    """Return a digest of a trunk's first weights, which all of its readings share."""
    first = next(trunk.parameters()).detach().cpu().contiguous()
    return content_digest({}, {"first": first})


def trunk_splits(trunk: Any, image: Tensor) -> bool:
    """Say whether a trunk's pass is one over its stages, then one that pools."""
    network = trunk.network
    if not hasattr(network, "forward_features") or not hasattr(network, "forward_head"):
        return False
    maps = network.forward_features(trunk.normalize(image))
    return torch.equal(network.forward_head(maps), trunk(image))


def _others(trunk: Any, image: Tensor) -> Iterator[Reading]:
    """Yield the readings of a trunk that differ from it and from each other."""
    seen = {repr(trunk)}
    for layer in LAYERS:
        for pooling in ("default", *POOLINGS):
            try:
                other = _reading(trunk, layer, pooling, image)
            except (ConfigError, *FAILURES):  # timm can't shorten or pool it so
                continue
            if repr(other) not in seen:
                seen.add(repr(other))
                yield Reading(layer, pooling, other)


def _reading(trunk: Any, layer: int, pooling: str, image: Tensor) -> Any:
    """Return a trunk with the same weights in memory, shortened and pooled in another way."""
    shared = {id(tensor): tensor for tensor in (*trunk.parameters(), *trunk.buffers())}
    other = copy.deepcopy(trunk, shared)
    leave_out(other.network, layer, "")
    set_pooling(other.network, pooling, "")
    other.eval().num_features = other(image).shape[1]
    return other


def _first_left_out(whole: nn.Module, short: nn.Module) -> nn.Module:
    """Return the first module of a network that its shortened form lacks."""
    kept = {name for name, _ in short.named_modules()}
    first: nn.Module = next(p for name, p in whole.named_modules() if name not in kept)
    return first
