"""Golden vectors, and variants of methods for parametrized tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import torch

from tests.helpers import GOLDEN
from trainables.methods.method import Choice, Method, Range, search_range


class Golden(NamedTuple):
    """Cases by name, and the arrays that their inputs and outputs refer to."""

    cases: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray]

    def inputs(self, case: str) -> dict[str, torch.Tensor]:
        return {k: torch.from_numpy(self.arrays[v]) for k, v in self.cases[case]["inputs"].items()}

    def output(self, case: str, role: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[self.cases[case]["outputs"][role]]))


def golden(area: str) -> Golden:
    document = json.loads((GOLDEN / f"{area}.json").read_text())
    with np.load(GOLDEN / f"{area}.npz") as arrays:
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
    """Yield every method with default settings, and with each listed value of each field."""
    for name, cls in sorted(kind.shelf.items()):
        yield pytest.param(cls(), id=name)
        for field, info in cls.model_fields.items():
            for value in _values(info.annotation, search_range(info)):
                if value != info.default:
                    yield pytest.param(cls(**{field: value}), id=f"{name}-{field}-{value}")
