"""Find foregrounds by activation maps; rotate, shift or mirror them and paste them back."""

from __future__ import annotations

import torch

ROTATION = 45.0  # degrees to either side
SCALE = (0.8, 1.2)


def foreground(maps: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """Return the foreground mask ``[B, H, W]``: pixels of at least ``threshold`` times the mean.

    Each map is first stretched to 0..1. A constant map is foreground everywhere.

    Example:
        >>> foreground(torch.tensor([[[0.0, 1.0], [2.0, 5.0]]]), threshold=0.75).tolist()
        [[[False, False], [True, True]]]
    """
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    stretched = (maps - lowest) / (highest - lowest).clamp(min=torch.finfo(maps.dtype).tiny)
    return stretched >= threshold * stretched.mean((1, 2), keepdim=True)


def boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return the first and last row and column of each mask, ``[B, 4]``.

    The box of an empty mask is the whole image.

    Example:
        >>> boxes(torch.tensor([[[False, False, True], [False, True, False]]])).tolist()
        [[0, 1, 1, 2]]
    """
    masks = masks | ~masks.flatten(1).any(1)[:, None, None]
    edges = []
    for lines in (masks.any(2), masks.any(1)):
        first = lines.int().argmax(1)
        edges += [first, lines.shape[1] - 1 - lines.flip(1).int().argmax(1)]
    return torch.stack(edges, dim=1)


def random_transforms(masks: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Return a random affine map ``[B, 2, 3]`` per mask, from output (row, column, 1) to input.

    Each map is, with equal probability, a rotation by up to 45 degrees with a scale of 0.8 to 1.2
    about the center of the mask, a shift that keeps the mask inside the image, or a horizontal
    flip.

    Args:
        masks: ``[B, H, W]`` bool.
        draws: Uniform random numbers in [0, 1), ``[4, B]``.
    """
    height, width = masks.shape[1:]
    top, bottom, left, right = boxes(masks).to(draws).unbind(1)
    angle = torch.deg2rad((2 * draws[1] - 1) * ROTATION)
    factor = 1 / (SCALE[0] + draws[2] * (SCALE[1] - SCALE[0]))
    cosine, sine = angle.cos() * factor, angle.sin() * factor
    row, column = (top + bottom) / 2, (left + right) / 2
    turn = torch.stack(
        [
            *(cosine, sine, row - cosine * row - sine * column),
            *(-sine, cosine, column + sine * row - cosine * column),
        ],
        dim=1,
    ).view(-1, 2, 3)
    kind = (3 * draws[0]).long()[:, None, None]
    still = torch.eye(2, 3, device=draws.device, dtype=draws.dtype).expand_as(turn)
    shift = still.clone()
    down = (draws[1] * (height - bottom + top)).floor() - top  # -top .. height - 1 - bottom
    along = (draws[2] * (width - right + left)).floor() - left
    shift[:, :, 2] = -torch.stack([down, along], dim=1)
    mirror = still.clone()
    mirror[:, 1, 1], mirror[:, 1, 2] = -1.0, width - 1.0
    return torch.where(kind == 0, turn, torch.where(kind == 1, shift, mirror))


def paste_transformed(
    images: torch.Tensor, masks: torch.Tensor, transforms: torch.Tensor
) -> torch.Tensor:
    """Move the masked part of each image and paste it over the image; the type stays.

    Args:
        images: ``[B, C, H, W]``.
        masks: Pixels to move, bool ``[B, H, W]``.
        transforms: See `random_transforms`.
    """
    height, width = masks.shape[1:]
    rows, columns = torch.meshgrid(
        *(torch.arange(n, device=images.device, dtype=torch.float32) for n in (height, width)),
        indexing="ij",
    )
    pixels = torch.stack([rows, columns, torch.ones_like(rows)])
    source = torch.einsum("bij,jhw->bhwi", transforms.float(), pixels)
    size = torch.tensor([height, width], device=images.device)
    # grid_sample expects (x, y) with -1 and 1 at the borders of the image
    grid = ((2 * source + 1) / size - 1).flip(-1)
    layers = torch.cat([images.float(), masks[:, None].float()], dim=1)
    moved = torch.nn.functional.grid_sample(layers, grid, align_corners=False)
    pasted = moved[:, :-1] if images.is_floating_point() else moved[:, :-1].round()
    return torch.where(moved[:, -1:] >= 0.5, pasted.to(images.dtype), images)
