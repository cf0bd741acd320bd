"""The device loader: order, shares of workers, last batches, sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.artifacts import ImageView, LabelledView
from trainables.data.loader import Loader, draw_positions, weighted_positions
from trainables.methods.augmentations import Augmentation
from trainables.methods.augmentations.crop_flip import CropFlip
from trainables.methods.samplers.instance_balanced import InstanceBalanced
from trainables.methods.samplers.power import Power
from trainables.methods.samplers.progressively_balanced import ProgressivelyBalanced


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view(count: int) -> LabelledView:
    """Images of a stored array of 50 in falling order; image n is all n, its label n % 5."""
    stored = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 8, 8, 3))
    indices = np.arange(50)[::-1][:count].astype(np.int64)
    return LabelledView(stored, indices, indices % 5, 5, "digest")


def loader(count: int, batch_size: int = 4, augmentation: Augmentation | None = None) -> Loader:
    return Loader(view(count), batch_size=batch_size, augmentation=augmentation)


def test_epoch_serves_positions_in_order_with_their_labels() -> None:
    positions = torch.tensor([3, 0, 7, 7, 1, 2])
    batches = list(loader(10).epoch(positions=positions, generator=seeded()))
    assert [len(batch.images) for batch in batches] == [4, 2]
    for batch, wanted in zip(batches, positions.split(4), strict=True):
        assert torch.equal(batch.positions, wanted)
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1:] == (3, 8, 8)
        assert torch.equal(batch.images[:, 0, 0, 0].long(), 49 - wanted)
        assert batch.labels is not None
        assert torch.equal(batch.labels, (49 - wanted) % 5)


def test_two_views_are_two_augmentations_of_the_same_images() -> None:
    served = Loader(view(10), batch_size=4, views=2, augmentation=CropFlip(padding=3))
    batches = list(served.epoch(positions=torch.arange(6), generator=seeded()))
    assert [len(batch.images) for batch in batches] == [8, 4]
    for batch, wanted in zip(batches, torch.arange(6).split(4), strict=True):
        assert torch.equal(batch.positions, wanted.repeat(2))
        assert batch.labels is not None
        assert torch.equal(batch.labels, (49 - wanted.repeat(2)) % 5)
        first, second = batch.images.chunk(2)
        assert torch.equal(first.amax((1, 2, 3)), second.amax((1, 2, 3)))
        assert not torch.equal(first, second)


def test_image_view_has_no_labels() -> None:
    labelled = view(6)
    served = Loader(ImageView(labelled.images, labelled.indices, "d"), batch_size=4)
    batches = served.epoch(positions=torch.arange(6), generator=seeded())
    assert [batch.labels for batch in batches] == [None, None]
    assert len(served) == 6


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (5, [5])])
def test_last_batch_of_one_joins_the_one_before(count: int, sizes: list[int]) -> None:
    epoch = loader(count).epoch(positions=torch.arange(count), generator=seeded())
    assert [len(batch.images) for batch in epoch] == sizes


def test_epoch_of_one_sample_trains_batch_norm() -> None:
    (batch,) = loader(1).epoch(positions=torch.tensor([0]), generator=seeded())
    norm = torch.nn.BatchNorm1d(3).train()
    assert norm(batch.images.float().mean((2, 3))).isfinite().all()
    assert batch.positions.tolist() == [0, 0]


def test_an_empty_epoch_gives_no_batches() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert list(loader(5).epoch(positions=nothing, generator=seeded(), world_size=2)) == []


def test_augmentation_repeats_with_its_seed_and_differs_without() -> None:
    def epoch(seed: int) -> torch.Tensor:
        served = loader(20, augmentation=CropFlip())
        parts = served.epoch(positions=torch.arange(20), generator=seeded(seed))
        return torch.cat([batch.images for batch in parts])

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))
    assert torch.equal(loader(20).images, loader(20, augmentation=CropFlip()).images)


@pytest.mark.parametrize(("count", "world_size"), [(20, 2), (21, 2), (10, 4), (3, 8)])
def test_workers_share_an_epoch_equally_and_completely(count: int, world_size: int) -> None:
    order = draw_positions(None, count, seeded(3))
    shares = []
    for rank in range(world_size):
        epoch = loader(count).epoch(
            positions=order, generator=seeded(rank), rank=rank, world_size=world_size
        )
        shares.append(torch.cat([batch.positions for batch in epoch]))
    lengths = {len(share) for share in shares}
    assert len(lengths) == 1
    assert set(torch.cat(shares).tolist()) == set(range(count))


def test_no_probability_is_a_random_order_of_all() -> None:
    order = draw_positions(None, 100, seeded())
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
    equal = draw_positions(torch.full((100,), 0.01), 100, seeded())
    assert torch.equal(order, equal)


@pytest.mark.parametrize("sizes", [(7, 4, 1), (500, 200, 5), (5000, 2997, 1796, 1077, 645, 50)])
def test_equal_up_to_rounding_is_every_image_once(sizes: tuple[int, ...]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    even = torch.full((len(labels),), 3.0)
    for wanted in (
        InstanceBalanced()(labels=labels),
        Power(q=1.0)(labels=labels),
        ProgressivelyBalanced()(labels=labels, progress=0.0),
    ):
        drawn = draw_positions(wanted, len(labels), seeded())
        assert drawn.sort().values.equal(torch.arange(len(labels)))
        drawn = weighted_positions(wanted, even, labels=labels, generator=seeded())
        assert drawn.sort().values.equal(torch.arange(len(labels)))


def test_a_difference_above_rounding_is_drawn() -> None:
    weights = torch.ones(1000, dtype=torch.float64)
    weights[0] += 1e-9
    assert len(draw_positions(weights, 1000, seeded()).unique()) < 1000


def test_draws_follow_the_probability() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 0.0, 5.0, 0.0])
    drawn = draw_positions(weights, 80_000, seeded())
    found = torch.bincount(drawn, minlength=6) / 80_000
    wanted = weights / 8
    # Four standard errors of a frequency.
    assert ((found - wanted).abs() <= 4 * (wanted * (1 - wanted) / 80_000).sqrt()).all()
    assert torch.equal(drawn, draw_positions(weights, 80_000, seeded()))


def test_a_stream_is_the_epoch_itself() -> None:
    stream = torch.tensor([3, 3, 0, 1, 2, 3])
    assert torch.equal(draw_positions(stream, 4, seeded()), stream)


def test_draws_of_another_number_than_samples() -> None:
    drawn = draw_positions(torch.ones(4), 10, seeded())
    assert len(drawn) == 10
    assert drawn.max() < 4


def test_weights_multiply_the_chances_of_a_sampler() -> None:
    labels = torch.tensor([0, 0, 1, 1]).repeat(5000)
    chances = torch.tensor([1.0, 1.0, 3.0, 3.0]).repeat(5000)
    weights = torch.tensor([1.0, 0.25, 1.0, 0.25]).repeat(5000)
    drawn = weighted_positions(chances, weights, labels=labels, generator=seeded())
    found = (drawn % 4).bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.05, 0.6, 0.15]), atol=0.02, rtol=0)


def test_without_weights_or_with_equal_ones_the_sampler_decides_alone() -> None:
    labels = torch.arange(12) % 3
    even = torch.full((12,), 0.25)
    for weights in (None, torch.full((12,), 7.0)):
        drawn = weighted_positions(even, weights, labels=labels, generator=seeded())
        assert torch.equal(drawn, draw_positions(even, 12, seeded()))
    stream = torch.tensor([3, 3, 0])
    assert torch.equal(weighted_positions(stream, None, labels=labels, generator=seeded()), stream)


def test_weights_of_a_stream_choose_within_a_class() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    stream = torch.tensor([0, 1, 2, 3] * 500)
    weights = torch.tensor([1.0, 9.0, 1.0, 1.0])
    drawn = weighted_positions(stream, weights, labels=labels, generator=seeded())
    assert torch.equal(labels[drawn], labels[stream])
    assert 0.85 < float((drawn[labels[drawn] == 0] == 1).float().mean()) < 0.95


@pytest.mark.parametrize("views", [1, 2])
def test_batches_that_are_augmented_together_are_those_of_the_epoch(
    views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = np.arange(1, 12)  # an image is full of its own number, whatever is cut out of it
    images = np.broadcast_to(numbers[:, None, None, None], (11, 8, 8, 3)).astype(np.uint8)
    view = LabelledView(images, np.arange(11), numbers % 3, 3, "")
    positions, served = torch.randperm(11, generator=seeded(4)), []
    for together in (1, 2, 3, 99):
        monkeypatch.setattr(Loader, "_batches_per_call", lambda self, together=together: together)
        loader = Loader(view, batch_size=4, augmentation=CropFlip(), views=views)
        batches = list(loader.epoch(positions=positions, generator=seeded(5)))
        for batch in batches:
            assert batch.images.amax((1, 2, 3)).tolist() == (batch.positions + 1).tolist()
            assert torch.equal(batch.labels, loader.labels[batch.positions])
        served.append([batch.positions.tolist() for batch in batches])
    assert all(other == served[0] for other in served)
    assert [len(part) for part in served[0]] == [4 * views, 4 * views, 3 * views]


@pytest.mark.parametrize(("size", "batches"), [(32, 42), (224, 1)])
def test_a_gpu_augments_as_many_batches_at_once_as_fit(size: int, batches: int) -> None:
    images = np.zeros((2, size, size, 3), np.uint8)
    loader = Loader(
        ImageView(images, np.arange(2), ""), batch_size=128, augmentation=CropFlip(), device="meta"
    )
    assert loader._batches_per_call() == batches
