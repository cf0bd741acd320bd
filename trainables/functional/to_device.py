"""Move every tensor of an artifact to a device."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def to_device(value: T, device: torch.device | str) -> T:
    """Move every tensor in a value to a device.

    Searches dictionaries, tuples and named tuples. Other values stay the same, generators included,
    because draws come from the CPU on every device. A value whose tensors are all on the device
    already is returned without a copy.

    Example:
        >>> value = {"weight": torch.ones(2), "epochs": 3}
        >>> to_device(value, "cpu") is value
        True
        >>> to_device((torch.ones(2), "name"), "meta")[0].device.type
        'meta'
    """
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(device)
    elif isinstance(value, dict):
        moved = _unless_unchanged(
            value, {key: to_device(part, device) for key, part in value.items()}
        )
    elif isinstance(value, tuple):
        parts = [to_device(part, device) for part in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        if not same:
            moved = value._make(parts) if hasattr(value, "_make") else tuple(parts)
    result: T = moved
    return result


def _unless_unchanged(old: dict[Any, Any], new: dict[Any, Any]) -> dict[Any, Any]:
    """Return the old dictionary if nothing in it moved."""
    return old if all(new[key] is part for key, part in old.items()) else new
