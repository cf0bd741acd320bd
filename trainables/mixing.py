"""Mixed samples: what a mixer draws for a batch, and the values that come of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch


class Mix(NamedTuple):
    """How the samples of one batch are mixed in pairs.

    Args:
        partner: Whom each sample is mixed with, a permutation ``[B]`` int64.
        share: Part of a sample's own values, in [0, 1]; the rest is its partner's.
        labels: First label of each mixed sample ``[B]``.
        partner_labels: Second label ``[B]``.
        label_share: Weight of the first labels in the loss, in [0, 1]. One number says it for
            every sample: a sample that takes one label whole has it in both places.
        place: Mix the images, a hidden layer or the features.
        depth: Which hidden layer, in [0, 1): 0 the images, towards 1 the last but one.
        box: ``(top, bottom, left, right)`` is the partner's instead of a weighted mean of all.
        pasted: Images that take the place of the batch's, and are mixed in their turn; where only
            they are new, each sample is its own partner with share 1.
    """

    partner: torch.Tensor
    share: float
    labels: torch.Tensor
    partner_labels: torch.Tensor
    label_share: float | torch.Tensor
    place: Literal["images", "hidden", "features"] = "images"
    depth: float = 0.0
    box: tuple[int, int, int, int] | None = None
    pasted: torch.Tensor | None = None


def paired(labels: torch.Tensor, share: float, partner: torch.Tensor) -> Mix:
    """Return the mix in which labels and values have one share (mixup).

    Example:
        >>> mix = paired(torch.tensor([3, 5]), 0.7, torch.tensor([1, 0]))
        >>> mix.partner_labels.tolist(), mix.label_share
        ([5, 3], 0.7)
    """
    return Mix(partner, share, labels, labels[partner], share)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """Draw from the Beta(alpha, alpha) distribution."""
    # torch's own Beta can't draw from a generator that is handed in
    return float(np.random.default_rng(_seed(generator)).beta(alpha, alpha))


def draw_partners(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a permutation of the samples of a batch, on the device of its labels."""
    # from a generator of its own: what is drawn next must not depend on the size of the batch,
    # or workers whose last batches differ would mix with different shares from then on
    own = torch.Generator().manual_seed(_seed(generator))
    order = torch.randperm(len(labels), generator=own)
    return order.to(labels.device, non_blocking=True)


def mixed_values(values: torch.Tensor, mix: Mix) -> torch.Tensor:
    """Return ``share * v_i + (1 - share) * v_partner(i)``, or ``v_i`` with the partner's box.

    Images in 0..255 become floating point in [0, 1] where they are averaged; a box keeps the type.

    Args:
        values: ``[B, ...]``; with a box ``[B, channels, height, width]``.
        mix: Who is mixed with whom, and how much.

    Example:
        >>> mix = paired(torch.tensor([0, 1]), 0.75, torch.tensor([1, 0]))
        >>> mixed_values(torch.tensor([[4.0], [0.0]]), mix).flatten().tolist()
        [3.0, 1.0]
    """
    if mix.box is not None:
        top, bottom, left, right = mix.box
        pasted = values.clone()
        pasted[:, :, top:bottom, left:right] = values[mix.partner, :, top:bottom, left:right]
        return pasted
    if values.dtype == torch.uint8:
        values = values.float() / 255
    return values.lerp(values[mix.partner], 1 - mix.share)
