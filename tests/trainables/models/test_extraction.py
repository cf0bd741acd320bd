"""Reading ahead of the trunk: order, errors, memory of a pass, progress."""

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.artifacts import ImageView
from trainables.context import Context
from trainables.data.faults import DataError, Fault
from trainables.models.backbone import build_trunk, extract_features, extract_views
from trainables.models.extraction.ahead import ahead


def view(count: int, size: int = 8) -> ImageView:
    draws = np.random.default_rng(count)
    images = draws.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ImageView(images, np.arange(count), "d")


def test_the_next_item_is_loaded_while_the_caller_works_and_no_more() -> None:
    loaded: list[int] = []

    def load(item: int) -> int:
        loaded.append(item)
        return item

    seen = []
    for item in ahead(load, range(6)):
        time.sleep(0.05)
        seen.append((item, max(loaded)))
    assert seen == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 5)]


def test_an_error_of_loading_comes_in_its_turn_and_no_thread_stays() -> None:
    def load(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    items = ahead(load, range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(items)
    for _ in ahead(load, range(2)):
        break  # the caller stops early
    assert [t for t in threading.enumerate() if t.name.startswith("ahead")] == []


class Damaged:
    """Images of which some can't be decoded."""

    def __init__(self, images: Any, bad: set[int]) -> None:
        self.images, self.bad, self.shape = images, bad, images.shape

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        wrong = [n for n in np.atleast_1d(index).tolist() if n in self.bad]
        if wrong:
            raise DataError([Fault("unreadable files", f"{n}.png can't be read") for n in wrong])
        return self.images[index]


def test_all_unreadable_files_are_named_when_the_others_are_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, seen = view(12), []
    trunk = build_trunk("fastnet", 8)
    images = whole._replace(images=Damaged(whole.images, {1, 6, 7}))

    def compute(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return trunk(batch)

    with pytest.raises(DataError) as found:
        extract_features(trunk, images, batch_size=3, compute=compute)
    assert [fault.text[:5] for fault in found.value.faults] == ["1.png", "6.png", "7.png"]
    assert str(found.value) == "1.png can't be read (and 2 more)"
    assert seen == [3, 3]  # rows 3 to 5 and 9 to 11
    assert caplog.messages == ["6.png can't be read", "7.png can't be read"]


def test_of_many_unreadable_files_twenty_are_named_and_all_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = view(30)
    images = whole._replace(images=Damaged(whole.images, set(range(25))))
    with pytest.raises(DataError) as found:
        extract_features(build_trunk("fastnet", 8), images, batch_size=2)
    assert len(found.value.faults) == 25
    assert len(caplog.messages) == 20
    assert caplog.messages[-1] == "... 25 unreadable files in all"


@pytest.mark.parametrize(("size", "wanted"), [(8, [9, 1]), (64, [9, 1]), (512, [8, 2])])
def test_a_pass_over_large_images_holds_fewer(size: int, wanted: list[int]) -> None:
    seen: list[int] = []
    trunk = build_trunk("fastnet", 8)

    def compute(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return torch.zeros(len(batch), trunk.num_features)

    extract_features(trunk, view(10, size), batch_size=9, compute=compute)
    assert seen == wanted


def test_progress_counts_the_images_of_all_views() -> None:
    told: list[tuple[int, int]] = []
    context = Context(progress=lambda done, total: told.append((done, total)))
    trunk = build_trunk("fastnet", 8)
    parts = extract_views(trunk, (view(5), view(0), view(3)), context=context, batch_size=2)
    assert [len(part) for part in parts] == [5, 0, 3]
    assert told == [(2, 8), (4, 8), (5, 8), (7, 8), (8, 8)]
