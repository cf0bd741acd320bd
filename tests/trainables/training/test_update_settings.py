"""What an update accepts, and what it is by default."""

import pytest

from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.settings import assign
from trainables.training.update_settings import Update


def test_the_head_alone_is_trained_once_by_default() -> None:
    update = Update()
    assert (update.mode, update.rounds, update.rate) == ("head", 1, "scaled")
    assert update.exemplars_per_class is None
    assert update.training.epochs == 20


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.until", 3, "update.training.until: must be 0"),
        ("mode", "trunk", "update.mode"),
        ("rounds", 0, "update.rounds"),
        ("trunk_lr_factor", 0.0, "update.trunk_lr_factor"),
        ("exemplars_per_class", 0, "update.exemplars_per_class"),
        ("rate", "papers", "update.rate"),
    ],
)
def test_what_does_not_fit_is_one_line(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        assign(Experiment(), {f"update.{path}": value})
    assert "\n" not in str(found.value)
