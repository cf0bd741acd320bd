"""Any recipe, setting, flag and image file: it is taken, or refused in one line with status 2.

The examples are drawn by hypothesis from a fixed seed and bounded in number.
"""

import io
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from typer.core import TyperGroup
from typer.main import get_command

from orchestrator.cli import main as cli
from orchestrator.options import SweepOptions, check_name, local_folder
from orchestrator.registry.gate_settings import choose_gates
from tests.helpers import ROOT
from trainables.data.data_settings import Data
from trainables.data.look import look
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods import KINDS
from trainables.methods.gates import Gate
from trainables.settings import assign, build, dump_yaml, flatten, parse_assignments, parse_seeds
from trainables.text.yaml_text import format_value, format_yaml, parse_yaml

BOUNDED = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FEW = settings(BOUNDED, max_examples=25, phases=[Phase.generate])

PATHS = sorted(flatten(Experiment()))
GROUPS = sorted({path.rpartition(".")[0] for path in PATHS} - {""})
METHODS = sorted(name for kind in KINDS.values() for name in kind.shelf)
ODD = (
    *(
        "2026-11-30",
        "1e400",
        ".inf",
        ".nan",
        "1e-320",
        "9" * 30,
        "9" * 5000,
        "0x_",
        "1:30",
        "=",
        "<<",
    ),
    *(
        "!!set {a}",
        "!!binary aGk=",
        "!!omap [a: 1]",
        "!!python/name:os.system",
        "!!bool x",
        "!own x",
    ),
    *("&a [*a]", "&a {b: *a}", "*a", "[" * 500, "{a: " * 40, "{a: 1, a: 2}", "{1: 2}", "{null: 1}"),
    *(
        '"\\0"',
        '"\\e[31m"',
        '"\\ud800"',
        "'a [/b] c'",
        "a\nb",
        "é",
        "\u2028",
        "\udce9",
        "--- 1\n--- 2",
    ),
)
words = st.sampled_from([*ODD, *METHODS]) | st.text(max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)
below = st.sampled_from(GROUPS + PATHS).flatmap(
    lambda path: st.sampled_from([f"{path}.{name}" for name in [*METHODS, "lr", "", "x"]])
)
paths = st.sampled_from(PATHS) | st.sampled_from(GROUPS) | below | st.text(max_size=30)


def taken(action: Any, *arguments: Any) -> Any:
    """Return what an action gives; ``None`` if it refuses its input in one line."""
    try:
        return action(*arguments)
    except ConfigError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    return None


@BOUNDED
@given(st.dictionaries(paths, plain | words, min_size=1, max_size=3))
def test_changes_of_a_recipe(changes: dict[str, Any]) -> None:
    found = taken(assign, Experiment(), changes)
    if found is not None:
        assert build(Experiment, parse_yaml(dump_yaml(found), "text")) == found
        assert assign(Experiment(), flatten(found)) == found


@BOUNDED
@given(st.lists(st.tuples(paths, words), min_size=1, max_size=3))
def test_words_of_set(pairs: list[tuple[str, str]]) -> None:
    texts = [f"{path}={word}" for path, word in pairs]
    changes = taken(parse_assignments, texts)
    if changes is not None:
        taken(assign, Experiment(), changes)


@BOUNDED
@given(words | st.text(alphabet="[]{}:,&*!|>'\"%@`#-? \nab01.\\", max_size=40))
def test_yaml(text: str) -> None:
    value = taken(parse_yaml, text, "text")
    assert parse_yaml(format_yaml(value), "text") == value or value != value


texts_of_yaml = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff"),
    max_size=20,
)
whole = st.integers(-(2**63) + 1, 2**63 - 1)
scalars = st.none() | st.booleans() | whole | st.floats(allow_nan=False) | texts_of_yaml


@BOUNDED
@given(
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts_of_yaml, scalars, max_size=3)
)
def test_plain_values_come_back(value: Any) -> None:
    assert parse_assignments([f"x={format_value(value)}"]) == {"x": value}
    assert parse_yaml(format_yaml({"x": value}), "text") == {"x": value}


@BOUNDED
@given(st.data())
def test_damaged_recipe_files(data: st.DataObject) -> None:
    content = bytearray((ROOT / "experiments" / "digits.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        end = place + data.draw(st.integers(0, 12))
        content[place:end] = data.draw(st.binary(max_size=6) | st.sampled_from(ODD).map(encoded))
        content = content or bytearray(b"a")
    tree = taken(parse_yaml, bytes(content).decode("utf-8", "replace"), "text")
    if isinstance(tree, dict):
        taken(build, Experiment, tree)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@BOUNDED
@given(words)
def test_names_storages_seeds_and_gates(word: str) -> None:
    if taken(check_name, "--name", word) is not None:
        assert Path("sweeps", word).parent == Path("sweeps")
        assert (Path("/sweeps") / word).resolve().parent == Path("/sweeps")
    taken(local_folder, word)
    taken(parse_seeds, word)
    for gate in sorted(Gate.shelf):
        taken(choose_gates, [f"{gate}.allowed_regression={word}"])


NUMBERS = ["cpus_per_trial", "gpus_per_trial", "trials", "concurrency", "num_seeds", "finalists"]


@BOUNDED
@given(st.sampled_from(NUMBERS), st.floats() | st.integers())
def test_numbers_of_a_sweep(name: str, number: float) -> None:
    try:
        found = getattr(SweepOptions(**{name: number}), name)
    except ValidationError:
        return
    assert found == 0 or 0.001 <= found <= 1_000_000


def options_of(command: str) -> list[str]:
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    return [option.opts[0] for option in group.commands[command].params if option.opts[0][0] == "-"]


# nothing is written there, so that no command begins its work
NOWHERE = ["--storage", "/dev/null"]
COMMANDS = ["sweep", "run", "report", "predict", "reproduce", "clean", "ui"]
letters = st.sampled_from(
    [*ODD, "1", "x", "../../x", "it's", "nope.nope:f", ":", "x" * 300]
) | st.text(string.ascii_letters + string.digits + "./:=-' ", max_size=9)


@FEW
@given(st.data())
def test_flags(data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(COMMANDS))
    flags = ["--help", *(option for option in options_of(command) if option != "--storage")]
    given_flags = data.draw(st.lists(st.sampled_from(flags), max_size=3))
    more = [word for flag in given_flags for word in (flag, data.draw(letters))]
    with pytest.MonkeyPatch.context() as patch:
        err = io.StringIO()
        patch.setattr("sys.stderr", err)
        patch.setattr("sys.stdout", io.StringIO())
        patch.chdir(ROOT)
        with pytest.raises(SystemExit) as left:
            cli.main([command, *more, *NOWHERE])
    status, lines = left.value.code or 0, err.getvalue().splitlines()
    assert status == 0 or (status == 2 and len(lines) == 1 and lines[0].startswith("error: ")), (
        lines
    )


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")


def picture(form: str, shade: int) -> bytes:
    """Return an image file of 8 x 8 pixels."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 80 * shade % 256, 9)).save(content, form)
    return content.getvalue()


@FEW
@given(st.data())
def test_image_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        content = bytearray(picture(data.draw(st.sampled_from(FORMATS)), number))
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(content) - 1))
            end = place + data.draw(st.integers(0, 9))
            content[place:end] = data.draw(st.binary(max_size=6))
            content = content or bytearray(b"a")
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    closed = {"novel_classes": 0, "validation_novel_classes": 0, "image_size": 8}
    chosen = Data(source=f"folder:{folder}", skip_unreadable=data.draw(st.booleans()), **closed)
    found = look(chosen, decode=True, cache=folder.with_suffix(".cache"))
    assert [line for line in found.lines() if "\n" in line] == []
    assert len(found.lines()) <= len(found.faults)
    taken(found.refuse)
