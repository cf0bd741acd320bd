"""Strict settings: dotted paths, YAML, digests."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.losses import Loss
from trainables.settings import (
    Settings,
    assign,
    build,
    canonical_json,
    dump_yaml,
    flatten,
    parse_assignments,
    parse_seeds,
    read_yaml,
)
from trainables.text.yaml_text import parse_yaml


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: caf\xe9\n", "is not UTF-8 text: byte 9"),
        ("name: a".encode("utf-16"), "is not UTF-8 text: byte 0"),
        (b"name: a\nname: b\n", "'name' is set twice"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["folder", "x" * 300, "\0", "x.yaml/y.yaml"])
def test_a_path_that_is_no_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.yaml").touch()
    with pytest.raises(ConfigError, match=r"not found|cannot be read") as caught:
        read_yaml(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrain.method.pretrained.checkpoint": "a.safetensors"},
        {"pretrain.method.supervised.checkpoint": "a.safetensors"},  # its former name
        {
            "pretrain.method.pretrained.timm_pretrained": False,
            "pretrain.method.pretrained.checkpoint": "a.safetensors",
        },
        {"pretrain.method": "pretrained", "pretrain.method.checkpoint": "a.safetensors"},
    ],
)
def test_one_of_two_exclusive_settings_is_set_by_its_path(changes: dict[str, object]) -> None:
    done = assign(Experiment(), changes)
    expected = {
        "checkpoint": "a.safetensors",
        "timm_pretrained": False,
        "pretrained_on": "unstated",
    }
    assert done.pretrain.method.dump() == {"pretrained": expected}


def test_a_stored_recipe_takes_the_other_of_two_exclusive_settings() -> None:
    start = assign(Experiment(), {"pretrain.method": "pretrained"})
    stored = build(Experiment, start.model_dump(mode="json"))
    changed = assign(stored, {"pretrain.method.pretrained.checkpoint": "a.safetensors"})
    assert flatten(changed)["pretrain.method.pretrained.timm_pretrained"] is False


def test_the_order_of_settings_of_a_method_does_not_matter() -> None:
    one = {"classify.loss.focal.gamma": 3.0, "classify.loss.focal.form": "sigmoid"}
    other = dict(reversed(one.items()))
    assert assign(Experiment(), one) == assign(Experiment(), other)


def test_a_setting_below_a_group_that_was_replaced_finds_its_defaults() -> None:
    done = assign(Experiment(), {"classify": {}, "classify.training.lr": 0.2})
    assert done == assign(Experiment(), {"classify.training.lr": 0.2})
    done = assign(Experiment(), {"classify": {}, "classify.loss.focal.gamma": 3.0})
    assert done == assign(Experiment(), {"classify.loss.focal.gamma": 3.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classify.loss.focal.gamma": 99, "classify.loss.focal.form": "sigmoid"},
            "focal.gamma: input should be less than or equal to 10.*received 99",
        ),
        ({"classify.then": "x"}, r"classify.then: must be a list, such as \[\]; received 'x'"),
        ({"classify.training.milestones": "[" * 9999}, "milestones: must be a list"),
        ({"classify": None, "classify.training.lr": 1}, "classify: must hold settings by name"),
        ({"classify": [1], "classify.training.lr": 1}, r"by name; received \[1\]"),
        ({"classify": {"loss": 3}, "classify.loss.gamma": 1}, "classify.loss: one of losses is"),
        ({"classify": {"loss": {}}, "classify.loss.gamma": 1}, "classify.loss: one of losses is"),
        ({"classify.loss": "nope", "classify.loss.gamma": 1}, "unknown name 'nope' in losses"),
        ({"classify.loss": {"ldam": 0}, "classify.loss.scale": 1}, "loss.ldam: must hold settings"),
        ({"classify.loss": {"ldam": 0}}, "ldam: input should be an object"),
        ({"classify.training.lr": float("inf")}, "lr: input should be a finite number"),
        ({"classify.loss.ldam.scale": float("nan")}, "scale: input should be a finite number"),
        ({"name": object()}, "settings must be plain values"),
        ({"name": b"a"}, "settings must be plain values"),
        ({"..": 1}, "unknown key ''"),
    ],
)
def test_changes_that_do_not_fit_are_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        assign(Experiment(), changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["²", "1,x", "-1", "1.5", "9" * 5000])
def test_seeds_that_are_none_are_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds: allowed: whole numbers"):
        parse_seeds(text)


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
