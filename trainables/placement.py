"""Whole artifacts on another device: stages compute where the context says, results are stored."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def placed(value: T, device: torch.device | str) -> T:
    """Return a value with every tensor in it on a device.

    Looks into dictionaries, tuples and named tuples; whatever else is not a tensor stays as it is,
    generators too: draws come from the CPU on every device. What is there already is not copied, so
    a value that need not move is returned itself.

    Example:
        >>> value = {"weight": torch.ones(2), "epochs": 3}
        >>> placed(value, "cpu") is value
        True
        >>> placed((torch.ones(2), "name"), "meta")[0].device.type
        'meta'
    """
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(device)
    elif isinstance(value, dict):
        moved = _kept(value, {key: placed(part, device) for key, part in value.items()})
    elif isinstance(value, tuple):
        parts = [placed(part, device) for part in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        if not same:
            moved = value._make(parts) if hasattr(value, "_make") else tuple(parts)
    result: T = moved
    return result


def _kept(old: dict[Any, Any], new: dict[Any, Any]) -> dict[Any, Any]:
    """Return the old dictionary if nothing in it moved."""
    return old if all(new[key] is part for key, part in old.items()) else new
