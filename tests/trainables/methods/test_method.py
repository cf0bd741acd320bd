"""The mechanism of the shelves."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field, ValidationError

from trainables.methods import KINDS
from trainables.methods.losses import Loss
from trainables.methods.method import (
    Choice,
    Method,
    Range,
    UnknownNameError,
    missing_message,
    search_range,
)
from trainables.methods.shelf import Shelf
from trainables.settings import Settings

ALL = [cls for kind in KINDS.values() for cls in kind.shelf.values()]


def test_kinds_are_the_folders() -> None:
    assert {"losses", "samplers", "heads", "scores", "gates", "splits"} <= set(KINDS)
    assert all(kind.kind == name for name, kind in KINDS.items())


def test_every_kind_has_a_method() -> None:
    assert [name for name, kind in KINDS.items() if not kind.shelf] == []


def test_schema_imports_only_the_methods_that_it_names() -> None:
    code = (
        "import sys, trainables.experiment\n"
        "from trainables.methods.losses import Loss\n"
        "read = [n for n in Loss.shelf if f'trainables.methods.losses.{n}' in sys.modules]\n"
        "assert 0 < len(read) < len(Loss.shelf) / 2, read\n"
        "assert 'focal' not in read and 'focal' in Loss.shelf\n"
        "assert Loss.shelf['focal'].name == 'focal'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_fault_in_a_method_file_is_raised_when_the_method_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_kind").mkdir()
    (tmp_path / "toy_kind" / "__init__.py").touch()
    (tmp_path / "toy_kind" / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "toy_kind" / "empty.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("toy_kind")
    shelf = Shelf("toy_kind")
    assert list(shelf) == ["broken", "empty"]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        shelf["broken"]
    with pytest.raises(KeyError, match="empty defines no method"):
        shelf["empty"]


@pytest.mark.parametrize("cls", ALL, ids=lambda c: f"{c.kind}/{c.name}")
def test_name_is_the_file(cls: type[Method]) -> None:
    assert cls.__module__ == f"trainables.methods.{cls.kind}.{cls.name}"


@pytest.mark.parametrize("cls", ALL, ids=lambda c: f"{c.kind}/{c.name}")
def test_method_says_what_it_is_and_where_it_comes_from(cls: type[Method]) -> None:
    assert cls.summary().endswith("."), "the first line is a sentence"
    assert cls.sources(), "the docstring has a section 'Source:'"
    assert ">>>" in (cls.__doc__ or ""), "the docstring has an example"


@pytest.mark.parametrize("cls", ALL, ids=lambda c: f"{c.kind}/{c.name}")
def test_every_field_is_documented_and_has_a_default_inside_its_range(cls: type[Method]) -> None:
    for name, field in cls.model_fields.items():
        assert f"{name}:" in (cls.__doc__ or ""), f"{name} is missing in Args"
        mark = search_range(field)
        if isinstance(mark, Range):
            assert mark.low < mark.high
            for end in (mark.low, mark.high):
                value = int(end) if field.annotation is int else end
                cls.model_validate({name: value})
        elif isinstance(mark, Choice):
            for value in mark.values:
                cls.model_validate({name: value})


@pytest.mark.parametrize("cls", ALL, ids=lambda c: f"{c.kind}/{c.name}")
def test_dump_reads_back(cls: type[Method]) -> None:
    method = KINDS[cls.kind].parse(cls.name)
    assert KINDS[cls.kind].parse(method.dump()) == method


@pytest.mark.parametrize(
    "form",
    [
        "ldam",
        {"ldam": {}},
        {"ldam": None},
        {"ldam": {"max_margin": 0.5}},
        Loss.parse({"ldam": {"max_margin": 0.5}}),
    ],
)
def test_forms_of_a_method_are_equal(form: object) -> None:
    assert Loss.parse(form) == Loss.parse("ldam")


@pytest.mark.parametrize("form", [3, ["ldam"], {}, {"ldam": {}, "focal": {}}, None])
def test_other_forms_are_refused(form: object) -> None:
    with pytest.raises(UnknownNameError, match="written as a name"):
        Loss.parse(form)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("ldan", "unknown name 'ldan' in losses; allowed: .*did you mean 'ldam'"),
        ({"ldam": {"margin": 1.0}}, "ldam: unknown key 'margin'; allowed: .*max_margin"),
        ({"ldam": {"max_margin": "x"}}, "ldam.max_margin: .*received 'x'"),
        ({"ldam": {"max_margin": -1.0}}, "ldam.max_margin: .*greater than 0.*received -1.0"),
    ],
)
def test_wrong_method_is_one_line(form: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Loss.parse(form)
    assert "\n" not in str(caught.value)


def test_method_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Loss.parse("ldam").max_margin = 1.0  # type: ignore[attr-defined]


def test_field_of_a_kind_takes_any_method_and_refuses_others() -> None:
    class Holder(Settings):
        loss: Loss = Field(default="focal")  # type: ignore[assignment]

    assert Holder().loss.name == "focal"
    assert Holder.model_validate_json('{"loss": {"ldam": {}}}').loss.name == "ldam"
    assert Holder().model_dump(mode="json")["loss"].keys() == {"focal"}
    with pytest.raises(ValidationError, match="unknown name 'energy' in losses"):
        Holder.model_validate_json('{"loss": "energy"}')


CLAIM = """
from trainables.methods.losses import Loss
class {name}(Loss):
    __module__ = "elsewhere.ldam"
"""


def test_two_claims_on_one_name_are_refused() -> None:
    code = CLAIM.format(name="Impostor")
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert "two losses claim the name 'ldam'" in done.stderr


class Toy(Method):
    """A kind that only this file has."""

    tag: ClassVar[str] = "toy"


def toy(**fields: object) -> type[Toy]:
    class Example(Toy):
        """Adds.

        More.

        Source:
            Somebody 2020,
            a paper.

        Example:
            >>> 1
            1
        """

        weight: Annotated[float, Range(0.0, 1.0)] = 0.5

        def __call__(self, *, logits: float, labels: float, bonus: float = 0.0) -> float:
            return logits + labels + bonus

    return Example


@pytest.fixture
def example():
    saved = dict(Toy.shelf)
    yield toy()()
    Toy.shelf.clear()
    Toy.shelf.update(saved)


def test_signature_says_what_a_call_needs(example: Toy) -> None:
    assert example.required_inputs() == {"logits", "labels"}


def test_supplied_passes_what_the_signature_names(example: Toy) -> None:
    available = {"logits": 1.0, "labels": 2.0, "images": object()}
    assert example.call_with(available) == 3.0
    assert example.call_with({**available, "bonus": 4.0}) == 7.0


def test_supplied_names_what_is_missing(example: Toy) -> None:
    with pytest.raises(TypeError, match="needs labels; available here: logits"):
        example.call_with({"logits": 1.0})
    assert "nothing" in missing_message(example, ["logits"], {})


def test_summary_and_source_come_from_the_docstring(example: Toy) -> None:
    assert (example.summary(), example.sources()) == ("Adds.", "Somebody 2020, a paper.")


def test_range_comes_from_the_annotation(example: Toy) -> None:
    assert search_range(type(example).model_fields["weight"]) == Range(0.0, 1.0)
    assert search_range(Loss.lookup("ldam").model_fields["scale"]) is None


def test_kind_of_this_file_does_not_disturb_the_others() -> None:
    assert Toy.kind == "test_method"
    assert "test_method" not in KINDS
