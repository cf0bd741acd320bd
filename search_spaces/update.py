"""Update: how strongly the student is held to its two teachers, and how it rehearses.

Classifier, pool and pseudo-labels stay, so a trial costs one update. With ``update.mode: head``
(the default) that is a head on cached features; with ``full`` the trunk trains too, and the share
of the learning rate that it gets is searched as well.
"""

from __future__ import annotations

from typing import Any, cast

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.distillers import Distiller
from trainables.methods.method import Choice
from trainables.settings import assign
from trainables.stages import update

OBJECTIVES = ("evaluate/update/accuracy:max",)

# None rehearses every image of the known classes: the most memory, not always the best balance.
EXEMPLARS = Choice((5, 20, 50, cast(Any, None)))


def choose_update(pick: Pick, base: Experiment) -> None:
    """Choose distillation and its weights, learning rates, and exemplars per class."""
    distillers = suited(Distiller, update.PROVIDES["distiller"])
    pick.method("update.distiller", base.update.distiller, distillers)
    pick.field(base, "update.training.lr")
    pick.value("update.exemplars_per_class", base.update.exemplars_per_class, EXEMPLARS)
    if base.update.mode == "full":
        pick.field(base, "update.trunk_lr_factor")


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with what `pick` chose for the update."""
    choose_update(pick, base)
    return assign(base, pick.changes)
