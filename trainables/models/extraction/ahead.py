"""Reading of images in another thread while the caller computes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from trainables.artifacts import Images, Pixels
from trainables.errors import DataError, Fault

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

logger = logging.getLogger(__name__)

MOST_LINES = 20  # of files that can't be decoded
DEPTH = 1  # keeps both sides busy; memory holds one batch more than without


def ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Iterator[Loaded]:
    """Yield what ``load`` returns for each item, in order, one item ahead of the caller.

    An error of ``load`` is raised where its result would have been yielded.

    Example:
        >>> list(ahead(str.upper, ["a", "b", "c"]))
        ['A', 'B', 'C']
    """
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the caller may stop early
            pool.shutdown(cancel_futures=True)


class ReadAhead:
    """Batches of images, each read while the caller computes on the one before.

    A batch with files that can't be decoded is left out; `refuse_unreadable` tells of all of them.

    Args:
        images: The images.
        indices: Those of a view.
        rows: Positions in ``indices`` to read.
        batch_size: Images per batch.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray[Any, np.dtype[np.int64]],
        rows: Sequence[int],
        batch_size: int,
    ) -> None:
        self._images, self._indices = images, indices
        starts = range(0, len(rows), batch_size)
        self._batches = [list(rows[start : start + batch_size]) for start in starts]
        self._faults: list[Fault] = []

    def __iter__(self) -> Iterator[tuple[list[int], Pixels]]:
        """Yield rows and their pixels ``[B, H, W, 3]``."""
        read = ahead(self._read, self._batches)
        for rows, pixels in zip(self._batches, read, strict=True):
            if pixels is not None:
                yield rows, pixels

    def refuse_unreadable(self) -> None:
        """Do nothing if all batches were read. Otherwise log the files that the error only counts.

        Raises:
            DataError: All files that can't be decoded.
        """
        if not self._faults:
            return
        for fault in self._faults[1:MOST_LINES]:
            logger.warning("%s", fault.text)
        if len(self._faults) > MOST_LINES:
            logger.warning("... %d unreadable files in all", len(self._faults))
        raise DataError(self._faults)

    def _read(self, rows: list[int]) -> Pixels | None:
        try:
            return self._images[self._indices[rows]]
        except DataError as error:
            self._faults += error.faults
            return None
