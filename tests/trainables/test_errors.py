"""One-line errors."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from trainables.errors import did_you_mean, explain, type_name, unknown_key


class Inner(BaseModel, extra="forbid", strict=True):
    rate: float = 0.1


class Outer(BaseModel, extra="forbid", strict=True):
    inner: Inner = Inner()
    count: int


def explained(tree: dict[str, object], owner: str = "") -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(tree)
    return explain(Outer, caught.value.errors()[0], owner)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (
            {"count": 1, "cuont": 2},
            "experiment: unknown key 'cuont'; allowed: count, inner; did you",
        ),
        ({"count": 1, "inner": {"ratte": 1.0}}, "inner: unknown key 'ratte'; allowed: rate"),
        ({}, "count: required setting is missing"),
        ({"count": "3"}, "count: input should be a valid integer; allowed type: int; received '3'"),
    ],
)
def test_error_names_owner_allowed_and_received(tree: dict[str, object], text: str) -> None:
    assert explained(tree).startswith(text)


def test_owner_is_part_of_the_path() -> None:
    assert explained({"count": 1, "inner": {"ratte": 1.0}}, "ldam").startswith("ldam.inner:")


def test_long_values_are_cut() -> None:
    assert len(explained({"count": "9" * 1000})) < 200


@pytest.mark.parametrize("name", ["", "zzzz", 3])
def test_nothing_near_gives_no_hint(name: object) -> None:
    assert did_you_mean(str(name), ["ldam", "focal"]) == ""


def test_owner_without_settings_says_so() -> None:
    assert "allowed: no settings" in unknown_key("none", "x", [])


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (int | None, "int | None"),
        (Annotated[int, Field(ge=1)] | None, "int | None"),
        (Literal["a", "b"], "'a' | 'b'"),
        (tuple[int, ...], "tuple[int, ...]"),
    ],
)
def test_type_names_are_as_a_reader_writes_them(annotation: object, text: str) -> None:
    assert type_name(annotation) == text
