"""Golden vectors, and one variant of a method per value that a field lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import torch

from trainables.methods.method import Choice, Method, Range, search_range

FOLDER = Path(__file__).parent.parent / "golden"


class Golden(NamedTuple):
    """Cases by name, and the arrays their inputs and outputs name."""

    cases: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray]

    def inputs(self, case: str) -> dict[str, torch.Tensor]:
        return {k: torch.from_numpy(self.arrays[v]) for k, v in self.cases[case]["inputs"].items()}

    def output(self, case: str, role: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[self.cases[case]["outputs"][role]]))


def golden(area: str) -> Golden:
    document = json.loads((FOLDER / f"{area}.json").read_text())
    with np.load(FOLDER / f"{area}.npz") as arrays:
        return Golden({c["name"]: c for c in document["cases"]}, dict(arrays))


def _values(annotation: object, mark: Range | Choice | None) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is bool:
        return (False, True)
    if isinstance(mark, Choice):
        return mark.values
    return (mark.low, mark.high) if isinstance(mark, Range) else ()


def variants(kind: type[Method]) -> Iterator[Any]:
    """Yield every method on the shelf with its defaults, and with each listed value of a field."""
    for name, cls in sorted(kind.shelf.items()):
        yield pytest.param(cls(), id=name)
        for field, info in cls.model_fields.items():
            for value in _values(info.annotation, search_range(info)):
                if value != info.default:
                    yield pytest.param(cls(**{field: value}), id=f"{name}-{field}-{value}")
