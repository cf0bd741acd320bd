"""What the first classifier is shown in each step of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import lru_cache

import torch
from torch import Tensor

from trainables.context import Context
from trainables.data.loader import Batch, Loader, weighted_positions
from trainables.methods.samplers import Sampler
from trainables.training.classify_settings import Classify
from trainables.training.distributed import own_epoch, share_of_batch
from trainables.training.loop import num_steps
from trainables.training.self_training import Lesson


class StepBatches:
    """What is drawn and served in each epoch: a batch per step, or two (see `Branches`).

    ``mixing`` is the epoch's generator of mixtures.

    Args:
        settings: Samplers, augmentation, batch size.
        lesson: What is learned from.
        views: Random views of each image in a batch; of the second batch there is one.
        context: Draws, and this worker's share.
    """

    def __init__(self, settings: Classify, lesson: Lesson, views: int, context: Context) -> None:
        self.settings, self.lesson, self.context = settings, lesson, context
        self.labels, self.counts = torch.from_numpy(lesson.view.labels), lesson.class_counts
        self.mixing = torch.Generator()
        self.other_sampler = settings.branches.other_sampler()
        share = share_of_batch(settings.training.batch_size, context, "classify")
        self.loader = Loader(
            lesson.view,
            batch_size=share,
            augmentation=settings.augmentation if lesson.augmented else None,
            views=views,
            device=context.device,
        )
        self.other_loader = copy(self.loader)  # the images are on the device once
        self.other_loader.views = 1
        self._positions = lru_cache(maxsize=1)(lambda epoch: self._drawn(settings.sampler, epoch))

    def share_images(self, other: StepBatches) -> None:
        """Serve the images of another one, which are the same: they are on the device once."""
        for loader in (self.loader, self.other_loader):
            loader.images = other.loader.images

    def steps(self, epoch: int) -> int:
        """Return the steps of an epoch, on all workers together."""
        return num_steps(len(self._positions(epoch)[0]), self.settings.training.batch_size)

    def length(self, epoch: int) -> int:
        """Return how many images pass the network in an epoch, on all workers together."""
        views = self.loader.views + (self.other_sampler is not None)
        return len(self._positions(epoch)[0]) * views

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield this worker's batches of an epoch."""
        positions, order = self._positions(epoch)
        # not the worker's own: all mix with one share
        self.mixing = self.context.generator("classify", "mixing", epoch)
        names = ("classify", "augmentation", epoch)
        first = own_epoch(self.loader, positions, order, self.context, *names)
        if self.other_sampler is None:
            return ((batch, None) for batch in first)
        drawn, order = self._drawn(self.other_sampler, epoch, "second")
        # both run out together: an index stream has a length of its own
        drawn = drawn.repeat(-(-len(positions) // len(drawn)))[: len(positions)]
        names = ("classify", "second augmentation", epoch)
        second = own_epoch(self.other_loader, drawn, order, self.context, *names)
        return zip(first, second, strict=True)

    def _drawn(self, sampler: Sampler, epoch: int, *names: str) -> tuple[Tensor, torch.Generator]:
        """Return the positions of an epoch, alike on all workers, and the generator they leave."""
        epochs = self.settings.training.epochs
        order = self.context.generator("classify", *names, "order", epoch)
        wanted = sampler.call_with(
            {
                "labels": self.labels,
                "class_counts": self.counts,
                "progress": epoch / max(1, epochs - 1),
                "epochs": epochs,
                "generator": order,
            }
        )
        weights = self.lesson.weights
        return weighted_positions(wanted, weights, labels=self.labels, generator=order), order
