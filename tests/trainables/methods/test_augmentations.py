"""Augmentations: random per sample, reproducible, and one contract for the shelf."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.vectors import variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.augmentations import Augmentation
from trainables.methods.augmentations.auto_augment import AutoAugment
from trainables.methods.augmentations.crop_flip import CropFlip
from trainables.methods.augmentations.rand_augment import RandAugment
from trainables.methods.augmentations.simclr_views import SimclrViews


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(size: int = 32) -> torch.Tensor:
    """One smooth color image with all gray levels, [1, 3, size, size]."""
    line = torch.linspace(0, 255, size)
    channels = [
        line.expand(size, size),
        line[:, None].expand(size, size),
        255 - line.expand(size, size),
    ]
    return torch.stack(channels)[None].to(torch.uint8)


def distinct(images: torch.Tensor) -> int:
    return len(torch.unique(images.flatten(1), dim=0))


@pytest.mark.parametrize("method", list(variants(Augmentation)))
@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (1, 3, 8, 8), (3, 3, 9, 12), (0, 3, 16, 16)])
def test_contract(method: Augmentation, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(1))
    before, state = images.clone(), torch.get_rng_state()
    first = method(images=images, generator=seeded())  # type: ignore[operator]
    again = method(images=images, generator=seeded())  # type: ignore[operator]
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert torch.equal(images, before), "the caller's images changed"
    assert torch.equal(torch.get_rng_state(), state), "global generator used"
    assert Augmentation.parse(method.dump()) == method


@pytest.mark.parametrize(
    ("method", "least"),
    [(CropFlip(), 100), (RandAugment(), 150), (AutoAugment(), 240), (SimclrViews(), 240)],
    ids=lambda value: getattr(value, "name", value),
)
def test_256_copies_come_out_different(method: Augmentation, least: int) -> None:
    copies = picture().expand(256, -1, -1, -1)
    assert distinct(method(images=copies, generator=seeded())) >= least  # type: ignore[operator]


def test_crop_without_flip_never_mirrors() -> None:
    rising = torch.arange(1, 33, dtype=torch.uint8).expand(64, 3, 32, 32)
    out = CropFlip(flip=False)(images=rising, generator=seeded()).int()
    inside = (out[..., 1:] > 0) & (out[..., :-1] > 0)
    assert (((out[..., 1:] - out[..., :-1]) == 1) | ~inside).all()
    mirrored = CropFlip()(images=rising, generator=seeded()).int()
    assert ((mirrored[..., 1:] - mirrored[..., :-1]) == -1).any()


@pytest.mark.parametrize(("size", "padding"), [(8, 1), (16, 2), (32, 4), (64, 8)])
def test_padding_grows_with_the_image(size: int, padding: int) -> None:
    white = torch.full((512, 3, size, size), 255, dtype=torch.uint8)
    out = CropFlip()(images=white, generator=seeded())
    black_rows = (out[:, 0].amax(dim=2) == 0).sum(1)
    assert int(black_rows.max()) == padding
    assert int(black_rows.min()) == 0


def test_strength_zero_of_simclr_jitter_keeps_gray_levels() -> None:
    method = SimclrViews(min_scale=1.0, jitter=0.0, gray_probability=0.0, flip=False)
    image = picture()
    out = method(images=image.repeat(8, 1, 1, 1), generator=seeded())
    # The whole area with another aspect ratio never fits: the whole image is taken.
    assert torch.equal(out, image.expand(8, -1, -1, -1))


def test_probability_one_makes_every_image_gray() -> None:
    out = SimclrViews(gray_probability=1.0)(
        images=picture().expand(16, -1, -1, -1), generator=seeded()
    )
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


def test_rand_augment_without_operations_is_crop_flip() -> None:
    images = picture().repeat(16, 1, 1, 1)
    plain = CropFlip()(images=images, generator=seeded())
    assert torch.equal(RandAugment(num_ops=0)(images=images, generator=seeded()), plain)


@pytest.mark.parametrize(("size", "side"), [(8, 4), (16, 8), (32, 16)])
def test_cutout_hides_a_square_around_any_pixel(size: int, side: int) -> None:
    flat = torch.full((1500, 3, size, size), 200, dtype=torch.uint8)
    with_hole = AutoAugment(flip=False)(images=flat, generator=seeded())
    without = AutoAugment(flip=False, cutout=0)(images=flat, generator=seeded())
    hole = ((with_hole == 0) & (with_hole != without)).all(1)
    assert torch.equal(
        with_hole[~hole[:, None].expand_as(flat)], without[~hole[:, None].expand_as(flat)]
    )
    black = (with_hole == 0).all(1)
    assert int(black.sum((1, 2)).min()) >= (side // 2) ** 2  # a corner has a quarter of it
    # the center is any pixel: a pixel is hidden as often as centres lie within reach of it
    reach = torch.tensor(
        [min(p + side // 2, size - 1) - max(p - side // 2 + 1, 0) + 1 for p in range(size)]
    )
    kept = black & ~(without == 0).all(1)
    usual = (without != 0).any(1).float().mean(0)
    wanted = usual * (reach[:, None] * reach[None, :]) / size**2
    assert (kept.float().mean(0) - wanted).abs().max() < 0.07


def test_what_comes_in_from_outside_is_gray() -> None:
    white = torch.full((256, 3, 32, 32), 255, dtype=torch.uint8)
    shift = torch.full((256,), 21)  # translate_y, twice
    draws = {"policies": shift, "chances": torch.zeros(2, 256)}
    down = AutoAugment().changed(white, **draws, negative=torch.zeros(2, 256).bool())
    assert (down[:, :, :28] == 128).all()
    assert (down[:, :, 28:] == 255).all()
    there_and_back = torch.tensor([[False], [True]]).expand(2, 256)
    back = AutoAugment(fill=7).changed(white, **draws, negative=there_and_back)
    assert (back[:, :, 18:] == 7).all()
    assert (back[:, :, :18] == 255).all()


def test_an_operation_is_applied_as_often_as_its_chance_says() -> None:
    images = torch.full((2000, 3, 8, 8), 10, dtype=torch.uint8)
    invert = torch.full((2000,), 23)  # equalize leaves a flat image as it is; inverts 10 %
    chances = torch.rand(2, 2000, generator=seeded())
    out = AutoAugment().changed(
        images, policies=invert, chances=chances, negative=torch.zeros(2, 2000).bool()
    )
    inverted = (out == 245).flatten(1).all(1)
    assert torch.equal(inverted, chances[1] < 0.1)
    assert (out[~inverted] == 10).all()
