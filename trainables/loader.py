"""Batches of whole views that live on the device as one uint8 tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import ImageView, LabelledView
from trainables.index_streams import is_stream, reweighted_stream
from trainables.methods.augmentations import Augmentation

CHUNK_BYTES = 2**24  # of images that are augmented together where a call costs more than its work


class Batch(NamedTuple):
    """``images`` uint8 ``[B, 3, H, W]``, ``positions [B]`` in the view, ``labels [B]`` if any."""

    images: Tensor
    positions: Tensor
    labels: Tensor | None


def draw_positions(wanted: Tensor | None, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return the positions of one epoch, int64 on the CPU.

    Args:
        wanted: What a sampler gives. Chance of each sample ``[N]`` (any scale), drawn with
            replacement; ``None``, or equal chances, is a random order without replacement: every
            sample once. Whole numbers are an index stream ``[M]``: the positions themselves.
        num_samples: Length of an epoch that is drawn; a stream has its own.
        generator: CPU generator.
    """
    if wanted is None:
        return torch.randperm(num_samples, generator=generator)
    if is_stream(wanted):
        return wanted.to("cpu", torch.int64)
    weights = wanted.detach().to("cpu", torch.float64)
    if len(weights) == num_samples and bool((weights == weights[0]).all()):
        return torch.randperm(num_samples, generator=generator)
    # torch.multinomial ends at 2**24 categories; a search in the cumulative sum does not.
    cumulative = weights.cumsum(0)
    draws = torch.rand(num_samples, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, draws, right=True).clamp_(max=len(weights) - 1)


def weighted_positions(
    wanted: Tensor, weights: Tensor | None, *, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the positions of one epoch in which each sample also has a weight of its own.

    Args:
        wanted: What a sampler gives (see `draw_positions`): chances are multiplied by the weights;
            of an index stream samples are redrawn by weight within their class.
        weights: ``[N]``, positive, any scale; ``None`` is the sampler's epoch as it is.
        labels: Class of each sample ``[N]`` int64.
        generator: CPU generator.
    """
    if weights is None:
        return draw_positions(wanted, len(labels), generator)
    if is_stream(wanted):
        return reweighted_stream(wanted, labels, weights, generator)
    weighted = wanted * weights
    return draw_positions(weighted / weighted.sum(), len(labels), generator)


class Loader:
    """Serves a view in batches, augmented on the device.

    On a CPU each batch is augmented by itself, because it stays in the cache. On a GPU the calls
    are what costs: as many batches as 16 MB hold are augmented together, then served one by one.

    A last batch of one sample is joined to the batch before it, because BatchNorm can't train on a
    single sample; an epoch of one sample is that sample twice.

    Args:
        view: What to serve. The images are copied to the device once.
        batch_size: Samples per batch on each worker.
        augmentation: Applied to each batch of an epoch; ``None`` serves images as they are.
        views: How often each image of a batch of an epoch is served, augmented anew each time: all
            images once, then all again.
        device: Where batches are made.
    """

    def __init__(
        self,
        view: LabelledView | ImageView,
        *,
        batch_size: int,
        augmentation: Augmentation | None = None,
        views: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        selected = torch.from_numpy(view.images[view.indices])
        self.images = selected.permute(0, 3, 1, 2).contiguous().to(device)
        labels = getattr(view, "labels", None)
        self.labels = None if labels is None else torch.as_tensor(labels).long().to(device)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.views = views
        self.device = self.images.device

    def __len__(self) -> int:
        """Return the number of samples in the view."""
        return len(self.images)

    def epoch(
        self,
        *,
        positions: Tensor,
        generator: torch.Generator,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Yield this worker's share of an epoch, augmented.

        Args:
            positions: Order of the epoch, the same on every worker (see `draw_positions`). Shares
                have equal length: the end is filled up from the beginning.
            generator: Draws the augmentation; give each worker its own.
            rank: Number of this worker, from 0.
            world_size: Number of workers.
        """
        if world_size > 1 and len(positions):
            missing = -len(positions) % world_size
            filler = positions.repeat(-(-missing // len(positions)))[:missing]
            positions = torch.cat([positions, filler])[rank::world_size]
        if len(positions) == 1:
            positions = positions.repeat(2)
        positions = positions.to(self.device)
        parts = list(_batches(positions, self.batch_size, join_single=True))
        together = self._together()
        for start in range(0, len(parts), together):
            yield from self._served(parts[start : start + together], generator)

    def sequential(self) -> Iterator[Batch]:
        """Yield every sample once, in view order, without augmentation."""
        everything = torch.arange(len(self), device=self.device)
        for part in _batches(everything, self.batch_size, join_single=False):
            yield self._batch(self.images[part[0] : part[-1] + 1], part)

    def _together(self) -> int:
        """Return how many batches are augmented in one call."""
        if self.device.type == "cpu" or self.augmentation is None:
            return 1
        return max(1, CHUNK_BYTES // (self.batch_size * self.images[:1].numel()))

    def _served(self, parts: list[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """Yield the batches of some positions, augmented together."""
        chosen, sizes = torch.cat(parts), [len(part) for part in parts]
        views = [
            self._augmented(self.images[chosen], generator).split(sizes) for _ in range(self.views)
        ]
        for part, *own in zip(parts, *views, strict=True):
            images = torch.cat(own) if self.views > 1 else own[0]
            yield self._batch(images, part.repeat(self.views))

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.augmentation is None:
            return images
        augmented: Tensor = self.augmentation(images=images, generator=generator)
        return augmented

    def _batch(self, images: Tensor, positions: Tensor) -> Batch:
        return Batch(images, positions, None if self.labels is None else self.labels[positions])


def _batches(positions: Tensor, size: int, *, join_single: bool) -> Iterator[Tensor]:
    """Cut positions into batches; optionally join a last batch of one to its neighbor."""
    parts = list(positions.split(size)) if len(positions) else []
    if join_single and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return iter(parts)
