"""What fit can be told: the name of its model, and times."""

from pathlib import Path

import pytest

from orchestrator.fitting.fit_options import FitOptions, parse_seconds
from trainables.errors import ConfigError


def test_the_model_has_the_real_name_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    assert FitOptions(photos=Path(".")).model_name == "pets"
    assert FitOptions(photos=Path("../pets/")).model_name == "pets"
    assert FitOptions(photos=Path("."), model="mine").model_name == "mine"


@pytest.mark.parametrize("text", ["", "soon", "5s", "-3m", "3d"])
def test_wrong_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--time: must be"):
        parse_seconds(text)
