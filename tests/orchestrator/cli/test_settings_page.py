"""The page of settings and options: complete, true, and whole in its cells."""

import re
from typing import Annotated

import pytest
import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from orchestrator.cli.main import app
from orchestrator.cli.settings_page import _options, render, sections, sentences
from trainables.experiment import Experiment
from trainables.methods.method import Method
from trainables.settings import Settings, assign, parse_assignments
from trainables.training.classify_settings import PhaseSettings, Training

ROWS = {row[0]: row for section in sections() for row in section.rows}
GROUPS = {section.path: section for section in sections()}
SHARED = ("pretrain.training", "update.training")  # told under classify.training


def settings(value: Settings, path: str = "") -> dict[str, object]:
    """Return every setting of a recipe by its dotted name."""
    found: dict[str, object] = {}
    for name in type(value).model_fields:
        held, dotted = getattr(value, name), f"{path}.{name}".strip(".")
        found |= settings(held, dotted) if isinstance(held, Settings) else {dotted: held}
    return found


def test_every_setting_has_one_row() -> None:
    told = [row[0] for section in sections() for row in section.rows]
    assert len(told) == len(set(told))
    missing = settings(Experiment()).keys() - ROWS.keys()
    assert {name for name in missing if not name.startswith(SHARED)} == set()
    assert {name for name in ROWS if "[]" not in name} <= settings(Experiment()).keys()


def test_a_default_that_is_written_gives_the_default_recipe() -> None:
    written = {row[0]: row[2] for row in ROWS.values() if "[]" not in row[0]}
    changed = assign(Experiment(), {"seed": 5, "classify.training.lr": 0.7, "update.rounds": 3})
    changes = parse_assignments(f"{name}={text}" for name, text in written.items())
    assert assign(changed, changes) == Experiment()


@pytest.mark.parametrize("home", ["classify.training"])
@pytest.mark.parametrize("other", SHARED)
def test_a_shared_group_tells_the_defaults_that_differ(home: str, other: str) -> None:
    recipe = Experiment()
    mine = getattr(recipe, other.partition(".")[0]).training
    differing = {n for n in Training.model_fields if getattr(mine, n) != getattr(Training(), n)}
    assert {row[0].removeprefix(f"{other}.") for row in GROUPS[other].rows} == differing
    assert f"[{home}](#classifytraining)" in GROUPS[other].text
    assert len(GROUPS[home].rows) == len(Training.model_fields)


def test_an_entry_of_a_list_tells_what_is_required() -> None:
    with pytest.raises(ValidationError, match="2 validation errors"):
        PhaseSettings()  # type: ignore[call-arg]
    required = [row[0] for row in GROUPS["classify.then[]"].rows if row[2] == "required"]
    assert required == ["classify.then[].epochs", "classify.then[].lr"]


def test_a_method_is_a_link_to_its_kind_and_a_range_is_told() -> None:
    assert ROWS["classify.loss"][1] == "[losses](methods.md#losses)"
    assert ROWS["classify.then[].loss"][1] == "[losses](methods.md#losses) | None"
    assert ROWS["data.image_size"][1] == "int >= 8 | None"
    assert ROWS["classify.training.lr"][3] == "Peak learning rate. *Searched:* 0.01 .. 1 (log)."


def test_sentences_go_over_lines_and_end_with_the_docstring() -> None:
    class Group(Settings):
        """A group.

        Args:
            one: The first, which
                is long: ``a``.
            two: The second.

        Example:
            >>> Group()
        """

        one: int = 1
        two: int = 2

    assert sentences(Group) == {"one": "The first, which is long: `a`.", "two": "The second."}


def commands(group: TyperGroup, words: str = "orchestrator") -> list[str]:
    found = []
    for name, command in group.commands.items():
        below = isinstance(command, TyperGroup)
        found += commands(command, f"{words} {name}") if below else [f"{words} {name}"]
    return found


def test_every_command_and_option_is_told() -> None:
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    page = render()
    assert re.findall(r"^### (orchestrator .*)$", page, flags=re.M) == commands(command)
    part = page.partition("### orchestrator sweep\n")[2].partition("\n### ")[0]
    assert "| `--trials` | int | 24 | How many recipes to try. |" in part
    assert "| `--promote`, `--no-promote` | bool | true |" in part
    told = set(re.findall(r"`(--[\w-]+)`", part))
    assert told == {n for p in command.commands["sweep"].params for n in names_of(p)} - {"--help"}


def test_what_is_hidden_is_not_told() -> None:
    small = typer.Typer(add_completion=False)

    @small.command()
    def grow(
        seeds: Annotated[int, typer.Option(help="How many.")] = 3,
        old: Annotated[int, typer.Option(hidden=True)] = 0,
    ) -> None:
        """Grow."""

    command = get_command(small)
    assert isinstance(command, TyperCommand)
    assert _options(command) == [("`--seeds`", "int", "3", "How many.")]


def names_of(parameter: object) -> list[str]:
    words = [*getattr(parameter, "opts", []), *getattr(parameter, "secondary_opts", [])]
    return [word for word in words if word.startswith("--")]


def test_cells_are_whole() -> None:
    lines = [line for line in render().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}


def test_every_kind_that_a_link_names_is_one() -> None:
    kinds = {cls.kind for cls in Method.__subclasses__()}
    assert set(re.findall(r"methods\.md#(\w+)", render())) <= kinds
