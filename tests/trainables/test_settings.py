"""Strict settings: dotted paths, YAML, digests."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from trainables.errors import ConfigError
from trainables.methods.losses import Loss
from trainables.settings import (
    Settings,
    assign,
    build,
    canonical_json,
    dump_yaml,
    flatten,
    parse_assignments,
    parse_yaml,
    read_yaml,
)


class Inner(Settings):
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    steps: tuple[int, ...] = ()


class Outer(Settings):
    inner: Inner = Inner()
    loss: Loss = Field(default="cross_entropy")  # type: ignore[assignment]
    count: int = 3
    size: int | None = None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().count = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"count": 5}, "count", 5),
        ({"inner.rate": 0.5}, "inner.rate", 0.5),
        ({"inner.rate": 1}, "inner.rate", 1.0),
        ({"inner.steps": [3, 4]}, "inner.steps", "[3,4]"),
        ({"size": 8}, "size", 8),
        ({"loss": "ldam"}, "loss", "ldam"),
        ({"loss.ldam.max_margin": 0.3}, "loss.ldam.max_margin", 0.3),
        ({"loss": {"ldam": {"max_margin": 0.3}}}, "loss.ldam.max_margin", 0.3),
        ({"loss": "ldam", "loss.max_margin": 0.3}, "loss.ldam.max_margin", 0.3),
        ({"loss": "ldam", "loss.ldam.max_margin": 0.3}, "loss.ldam.max_margin", 0.3),
        ({"loss.max_margin": 0.3, "count": 1}, None, None),
    ],
)
def test_paths_reach_every_setting(changes: dict[str, object], path: str | None, value) -> None:
    if path is None:
        with pytest.raises(ConfigError, match=r"loss \(cross_entropy\)"):
            assign(Outer(), changes)
        return
    assert flatten(assign(Outer(), changes))[path] == value


def test_later_field_keeps_earlier_field_of_the_same_method() -> None:
    done = assign(Outer(), {"loss.ldam.max_margin": 0.3, "loss.ldam.scale": 10.0})
    flat = flatten(done)
    assert (flat["loss.ldam.max_margin"], flat["loss.ldam.scale"]) == (0.3, 10.0)


def test_changes_are_not_changed() -> None:
    inner = {"rate": 0.5}
    assign(Outer(), {"inner": inner, "inner.rate": 0.7})
    assert inner == {"rate": 0.5}


def test_another_method_forgets_the_fields_of_the_old_one() -> None:
    done = assign(Outer(), {"loss.ldam.max_margin": 0.3, "loss.focal.gamma": 1.0})
    assert flatten(done)["loss"] == "focal"
    assert not [name for name in flatten(done) if "ldam" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner.rat": 1}, "inner: unknown key 'rat'; allowed: rate, steps; did you mean 'rate'?"),
        ({"iner.rate": 1}, "experiment: unknown key 'iner'"),
        ({"count.x": 1}, "experiment.count: has no settings below it; received 'count.x'"),
        ({"loss": "ldan"}, "unknown name 'ldan' in losses"),
        ({"loss.ldam.max_magrin": 1.0}, "did you mean 'max_margin'?"),
        ({"inner.rate": 0}, "inner.rate: input should be greater than 0"),
        ({"inner.rate": True}, "allowed type: float; received True"),
        ({"count": 1.5}, "count: input should be a valid integer"),
        ({"count": "1"}, "count: input should be a valid integer"),
        ({"loss": {"ldam": {}, "focal": {}}}, "is written as a name or as"),
    ],
)
def test_wrong_assignment_is_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assign(Outer(), changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flat_names_read_back_to_an_equal_object() -> None:
    start = assign(Outer(), {"loss.ldam.max_margin": 0.3, "inner.rate": 0.7, "size": 4})
    scalars = {k: v for k, v in flatten(start).items() if k != "inner.steps"}
    assert assign(Outer(), scalars) == start


def test_yaml_reads_back_to_an_equal_object(tmp_path: Path) -> None:
    start = assign(Outer(), {"loss.ldam.max_margin": 0.3, "inner.steps": [1, 2]})
    file = tmp_path / "x.yaml"
    file.write_text(dump_yaml(start), encoding="utf-8")
    assert build(Outer, read_yaml(file)) == start


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("0.1", 0.1),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("e5", "e5"),
        ("v1e4", "v1e4"),
        ("", None),
    ],
)
def test_yaml_values_are_what_a_reader_means(text: str, value: object) -> None:
    parsed = parse_yaml(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


def test_value_may_hold_an_equals_sign() -> None:
    assert parse_assignments(["data.root=a=b"]) == {"data.root": "a=b"}


@pytest.mark.parametrize("text", ["seed", "=1", " =1"])
def test_assignment_without_path_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="path=value"):
        parse_assignments([text])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2]", "must hold settings by name"), ("a: [", "not valid YAML"), ("", "NoneType")],
)
def test_unreadable_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        read_yaml(tmp_path / "digit.yaml")


def test_digest_is_stable_and_tells_values_apart() -> None:
    assert Inner().digest() == Inner(rate=0.1).digest()
    assert Inner().digest() != Inner(rate=0.2).digest()
    # Written out, because a change of the canonical form would orphan every stored result.
    assert Inner().digest() == sha256(b'{"rate":0.1,"steps":[]}').hexdigest()


def test_canonical_json_ignores_the_order_of_keys() -> None:
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
