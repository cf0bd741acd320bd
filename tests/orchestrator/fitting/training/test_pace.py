"""How long a training takes, and how many epochs it has."""

from pathlib import Path

from orchestrator.fitting.training.pace import epochs_in, pace_of, seconds_per_image
from trainables.experiment import Experiment
from trainables.settings import assign


def test_epochs_are_decided_once_for_a_fit(tmp_path: Path) -> None:
    file = tmp_path / "pace.json"
    first = pace_of("a", file, most=30, per_epoch=10.0, limit=65.0)
    assert (first.epochs, first.seconds) == (6, 60.0)
    assert pace_of("a", file, most=30, per_epoch=30.0, limit=65.0) == first  # a busier machine
    assert pace_of("b", file, most=30, per_epoch=30.0, limit=65.0).epochs == 2  # another fit
    file.write_text("{")
    assert pace_of("a", file, most=30, per_epoch=10.0, limit=None).epochs == 30


def test_there_is_always_one_epoch() -> None:
    assert epochs_in(-5.0, 10.0, most=30) == 1
    assert epochs_in(1e9, 10.0, most=30) == 30


def test_a_larger_image_takes_longer() -> None:
    recipe = assign(Experiment(), {"data.image_size": 16, "classify.training.batch_size": 16})
    small = seconds_per_image(recipe, 3, "cpu")
    large = seconds_per_image(assign(recipe, {"data.image_size": 96}), 3, "cpu")
    assert 0 < 4 * small < large  # 36 times the pixels
