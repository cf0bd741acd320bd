"""Batches of a view: its images are on the device as one uint8 tensor, or files that stream."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import Images, ImageView, LabelledView
from trainables.data.image_files import take
from trainables.functional.index_sampling import is_stream, reweighted_stream
from trainables.methods.augmentations import Augmentation
from trainables.models.extraction.ahead import ahead

CHUNK_BYTES = 2**24  # images augmented in one call on a GPU, where launching kernels dominates


class Batch(NamedTuple):
    """``images`` uint8 ``[B, 3, H, W]``, their ``positions [B]`` in the view, ``labels [B]``."""

    images: Tensor
    positions: Tensor
    labels: Tensor | None


def draw_positions(wanted: Tensor | None, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return the positions of one epoch, int64 on the CPU.

    Args:
        wanted: Output of a sampler. Floating point numbers are the probabilities of the samples
            ``[N]`` (up to a factor), drawn with replacement; ``None``, or probabilities that are
            equal up to rounding (1e-12 of the largest), is a random permutation. Integers are the
            positions of the epoch ``[M]``, returned unchanged.
        num_samples: Length of an epoch that is drawn.
        generator: CPU generator.
    """
    if wanted is None:
        return torch.randperm(num_samples, generator=generator)
    if is_stream(wanted):
        return wanted.to("cpu", torch.int64)
    weights = wanted.detach().to("cpu", torch.float64)
    if len(weights) == num_samples and all_equal(weights):
        return torch.randperm(num_samples, generator=generator)
    # torch.multinomial is limited to 2**24 categories
    cumulative = weights.cumsum(0)
    draws = torch.rand(num_samples, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, draws, right=True).clamp_(max=len(weights) - 1)


def all_equal(weights: Tensor) -> bool:
    """Say whether weights differ by rounding alone, as ``(n_c / N) / n_c`` does between classes.

    Example:
        >>> counts = torch.tensor([7.0, 4.0, 1.0], dtype=torch.float64)
        >>> all_equal(counts / 12 / counts), all_equal(torch.tensor([1.0, 1.001]))
        (True, False)
    """
    lowest, highest = weights.aminmax()
    return bool(highest - lowest <= 1e-12 * highest)


def weighted_positions(
    wanted: Tensor, weights: Tensor | None, *, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the positions of one epoch under additional sample weights.

    Args:
        wanted: Output of a sampler (see `draw_positions`). Probabilities are multiplied by the
            weights; positions are redrawn by weight within their class.
        weights: ``[N]``, positive, up to a factor; ``None`` applies no weights.
        labels: Class of each sample ``[N]`` int64.
        generator: CPU generator.
    """
    if weights is None:
        return draw_positions(wanted, len(labels), generator)
    if is_stream(wanted):
        return reweighted_stream(wanted, labels, weights, generator)
    weighted = wanted * weights
    return draw_positions(weighted / weighted.sum(), len(labels), generator)


class Streamed:
    """Images ``[N, 3, H, W]`` uint8 that are read, and files decoded, when they are indexed."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self._images, self.device = images, device
        count, height, width, channels = images.shape
        self.shape = (count, channels, height, width)

    def __len__(self) -> int:
        """Return N."""
        return self.shape[0]

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Return the images at these positions, on the device.

        Raises:
            DataError: Files that can't be decoded.
        """
        pixels = torch.from_numpy(self._images[positions.cpu().numpy()])
        return pixels.to(self.device).permute(0, 3, 1, 2).contiguous()


def _on_device(view: LabelledView | ImageView, device: torch.device) -> Tensor | Streamed:
    """Return the images of a view: a copy on the device, or files that are read batch by batch."""
    if not isinstance(view.images, np.ndarray):
        return Streamed(take(view.images, view.indices), device)
    selected = torch.from_numpy(view.images[view.indices])
    return selected.permute(0, 3, 1, 2).contiguous().to(device)


class Loader:
    """Batches of a view, augmented on the device.

    On a CPU each batch is augmented separately, because one batch fits into the processor's cache.
    On a GPU launching kernels dominates, so batches of 16 MB in total are augmented in one call.

    A last batch of one sample is joined to the preceding batch, because BatchNorm can't train on a
    single sample; an epoch of one sample contains that sample twice.

    Args:
        view: The view. An array is copied to the device once; files are decoded in every epoch, a
            batch ahead of the caller.
        batch_size: Samples per batch on each worker.
        augmentation: Augmentation of the batches of an epoch; ``None`` for none.
        views: Number of augmented views of each image in a batch of an epoch: the first views of
            all images, then the second views, and so on.
        device: Device of the batches.
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
        self.device = torch.device(device)
        self.images = _on_device(view, self.device)
        labels = getattr(view, "labels", None)
        self.labels = None if labels is None else torch.as_tensor(labels).long().to(device)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.views = views

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
            positions: Order of the epoch, the same on every worker (see `draw_positions`). To give
                all workers equally many positions, the first positions are repeated at the end.
            generator: Generator of the augmentation, a different one on each worker.
            rank: Rank of this worker, from 0.
            world_size: Number of workers.
        """
        if world_size > 1 and len(positions):
            missing = -len(positions) % world_size
            filler = positions.repeat(-(-missing // len(positions)))[:missing]
            positions = torch.cat([positions, filler])[rank::world_size]
        if len(positions) == 1:
            positions = positions.repeat(2)
        parts = _batches(positions.to(self.device), self.batch_size)
        together = self._batches_per_call()
        calls = [parts[start : start + together] for start in range(0, len(parts), together)]
        for call, images in zip(calls, self._read(calls), strict=True):
            yield from self._augmented_batches(call, images, generator)

    def _read(self, calls: list[list[Tensor]]) -> Iterator[Tensor]:
        """Yield the images of each call, those of files a call ahead."""
        chosen = (torch.cat(call) for call in calls)
        if isinstance(self.images, Streamed):
            return ahead(self.images.__getitem__, chosen)
        return (self.images[positions] for positions in chosen)

    def _batches_per_call(self) -> int:
        """Return the number of batches that are augmented in one call."""
        if self.device.type == "cpu" or self.augmentation is None:
            return 1
        return max(1, CHUNK_BYTES // (self.batch_size * prod(self.images.shape[1:])))

    def _augmented_batches(
        self, parts: list[Tensor], images: Tensor, generator: torch.Generator
    ) -> Iterator[Batch]:
        """Yield the batches of several positions tensors, augmented in one call."""
        sizes = [len(part) for part in parts]
        copies = [images.clone() for _ in range(self.views - 1)]  # augmenting may change its input
        views = [self._augment(copy, generator).split(sizes) for copy in (*copies, images)]
        for part, *own in zip(parts, *views, strict=True):
            images = torch.cat(own) if self.views > 1 else own[0]
            yield self._batch(images, part.repeat(self.views))

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.augmentation is None:
            return images
        augmented: Tensor = self.augmentation(images=images, generator=generator)
        return augmented

    def _batch(self, images: Tensor, positions: Tensor) -> Batch:
        return Batch(images, positions, None if self.labels is None else self.labels[positions])


def _batches(positions: Tensor, size: int) -> list[Tensor]:
    """Split positions into batches; join a last batch of one to the preceding batch."""
    parts = list(positions.split(size)) if len(positions) else []
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
