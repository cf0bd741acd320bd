"""Foregrounds: what is in them, and where they move."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.transforms.foregrounds import (
    boxes,
    foreground,
    paste_transformed,
    random_transforms,
)

HEIGHT, WIDTH = 9, 7


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images with a random box each as foreground."""
    draw = torch.Generator().manual_seed(count)
    shape = (count, 3, HEIGHT, WIDTH)
    images = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    masks = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    for mask in masks:
        rows, columns = (
            torch.randint(n, (2,), generator=draw).sort().values for n in (HEIGHT, WIDTH)
        )
        mask[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = True
    return images, masks


def draws(kind: float, count: int) -> torch.Tensor:
    uniform = torch.rand(4, count, generator=torch.Generator().manual_seed(1))
    uniform[0] = kind
    return uniform


TURN, SHIFT, MIRROR = 0.0, 0.5, 0.9


def test_maps_of_no_contrast_are_foreground_everywhere() -> None:
    assert foreground(torch.full((1, 2, 3), -4.0), threshold=0.75).all()


def test_threshold_counts_from_the_lowest_value_of_the_map() -> None:
    maps = torch.tensor([[[-10.0, -9.0], [-8.0, -6.0]]])  # 0, 1/4, 1/2, 1 of mean 7/16
    assert foreground(maps, threshold=0.5).flatten().tolist() == [False, True, True, True]
    assert foreground(maps, threshold=0.75).flatten().tolist() == [False, False, True, True]


def test_boxes_hold_their_masks() -> None:
    _, masks = pictures(20)
    for mask, (top, bottom, left, right) in zip(masks, boxes(masks).tolist(), strict=True):
        inside = mask[top : bottom + 1, left : right + 1]
        assert inside.all()
        assert inside.sum() == mask.sum()
    nothing = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    assert boxes(nothing).tolist() == [[0, HEIGHT - 1, 0, WIDTH - 1]]


def test_a_mirrored_foreground_lies_over_its_image() -> None:
    images, masks = pictures(10)
    found = paste_transformed(images, masks, random_transforms(masks, draws(MIRROR, 10)))
    wanted = torch.where(masks.flip(2)[:, None], images.flip(3), images)
    assert torch.equal(found, wanted)


def test_a_shifted_foreground_stays_whole_within_the_image() -> None:
    images, masks = pictures(60)
    transforms = random_transforms(masks, draws(SHIFT, 60))
    found = paste_transformed(images, masks, transforms)
    shifts = -transforms[:, :, 2].long()
    for image, mask, new, (down, along) in zip(images, masks, found, shifts.tolist(), strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        wanted = image.clone()
        assert 0 <= rows.min() + down <= rows.max() + down < HEIGHT
        assert 0 <= columns.min() + along <= columns.max() + along < WIDTH
        wanted[:, rows + down, columns + along] = image[:, rows, columns]
        assert torch.equal(new, wanted)
    assert len(shifts.unique(dim=0)) > 10


def test_a_turn_keeps_the_centre_and_scales_by_its_factor() -> None:
    _, masks = pictures(200)
    transforms = random_transforms(masks, draws(TURN, 200))
    top, bottom, left, right = boxes(masks).float().unbind(1)
    centre = torch.stack([(top + bottom) / 2, (left + right) / 2, torch.ones(200)], dim=1)
    source = torch.einsum("bij,bj->bi", transforms, centre)
    torch.testing.assert_close(source, centre[:, :2], rtol=0, atol=1e-5)
    linear = transforms[:, :, :2]
    scale = torch.linalg.det(linear).rsqrt()
    assert 0.8 <= scale.min() < 0.85 < 1.15 < scale.max() <= 1.2
    angle = torch.rad2deg(torch.atan2(linear[:, 0, 1], linear[:, 0, 0]))
    assert -45 <= angle.min() < -40 < 40 < angle.max() <= 45


def test_a_quarter_turn_moves_pixels_as_it_should() -> None:
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # new (row, column) comes from (column, 7 - row): a quarter turn to the left
    transforms = torch.tensor([[[0.0, 1.0, 0.0], [-1.0, 0.0, 7.0]]])
    found = paste_transformed(images, torch.ones(1, 8, 8, dtype=torch.bool), transforms)
    torch.testing.assert_close(found, images.rot90(1, dims=(2, 3)))


@pytest.mark.parametrize("kind", [TURN, SHIFT, MIRROR])
def test_only_the_foreground_moves(kind: float) -> None:
    images, masks = pictures(30)
    found = paste_transformed(images, masks, random_transforms(masks, draws(kind, 30)))
    whole = torch.ones_like(masks)
    moved = paste_transformed(images, whole, random_transforms(masks, draws(kind, 30)))
    assert found.dtype == torch.uint8
    assert ((found == images) | (found == moved)).all()
    share = (found != images).any(1).float().mean()
    assert share <= masks.float().mean() * 1.2**2 + 0.05
    assert math.isfinite(share)
