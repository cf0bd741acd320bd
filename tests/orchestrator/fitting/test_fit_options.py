"""What fit can be told: names from folders, and times."""

from pathlib import Path

import pytest

from orchestrator.fitting.fit_options import FitOptions, name_of_folder, parse_seconds
from trainables.errors import ConfigError


def test_the_model_has_the_real_name_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    assert FitOptions(photos=Path(".")).model_name == "pets"
    assert FitOptions(photos=Path("../pets/")).model_name == "pets"
    assert FitOptions(photos=Path("."), model="mine").model_name == "mine"


@pytest.mark.parametrize(
    ("folder", "name"), [("Käfer 2", "Käfer 2"), ("a:b*c", "a-b-c"), ("x" * 250, "x" * 200)]
)
def test_odd_names_become_names_that_a_registry_takes(folder: str, name: str) -> None:
    assert name_of_folder(Path("/nowhere") / folder) == name


def test_a_name_without_letters_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="give --model NAME"):
        name_of_folder(Path("/nowhere/---"))


@pytest.mark.parametrize("text", ["", "soon", "5s", "-3m", "3d"])
def test_wrong_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time: must be"):
        parse_seconds(text)
