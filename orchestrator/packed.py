"""A trial's result in one text: Tune keeps statistics of every number that it is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PACKED = "packed"


def pack(values: Mapping[str, Any]) -> dict[str, str]:
    """Return JSON-like values as one entry of a Tune result.

    Tune averages, copies and stores each number of a result by itself, 0.1 ms each; a recipe has a
    hundred metrics.

    Example:
        >>> unpack({"loss": 0.5, **pack({"evaluate/accuracy": 0.9})})
        {'loss': 0.5, 'evaluate/accuracy': 0.9}
    """
    return {PACKED: json.dumps(values)}


def unpack(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with what was packed into it; one without anything packed is only copied."""
    values = {name: value for name, value in result.items() if name != PACKED}
    values.update(json.loads(result.get(PACKED, "{}")))
    return values
