"""Small search spaces, quick to ask for: trials of them are told a value and never run."""

import math
from collections.abc import Mapping
from typing import Any

from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.methods.method import Choice, Range


def conditional(pick: Pick, base: Experiment) -> Experiment:
    """Ask for two numbers and a choice, and for what exists by that choice only."""
    pick.value("x", 0.5, Range(0.0, 1.0))
    pick.value("y", 0.01, Range(1e-4, 1.0, log=True))
    loss = pick.value("loss", "plain", Choice(("plain", "focal", "ldam")))
    if loss == "focal":
        pick.value("loss.focal.gamma", 2.0, Range(0.5, 5.0))
    elif loss == "ldam":
        form = pick.value("loss.ldam.form", "hard", Choice(("hard", "soft")))
        pick.value(f"loss.ldam.form.{form}.scale", 30.0, Range(1.0, 64.0, log=True))
        pick.value("loss.ldam.margin", 0.5, Range(0.0, 1.0, step=0.1))
    pick.value("mode", "only", Choice(("only",)))
    return base


def listed(pick: Pick, base: Experiment) -> Experiment:
    """Ask for choices only, 4 recipes in all."""
    if pick.value("a", 1, Choice((1, 2, 3))) == 3:
        pick.value("a.3.b", 1, Choice((1, 2)))
    return base


def value_of(params: Mapping[str, Any]) -> float:
    """Return what a recipe is worth: best near x = 0.3 with the loss `ldam`; the same each time."""
    found = -abs(float(params.get("x", 0.0)) - 0.3) + 0.1 * (params.get("loss") == "ldam")
    return found - 0.01 * sum(math.sin(float(v)) for v in params.values() if isinstance(v, float))
