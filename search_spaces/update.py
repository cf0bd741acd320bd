"""Update: distillation from the two teachers, learning rate, and rehearsal.

Classifier, pool and pseudo-labels are fixed, so a trial costs one update. With ``update.mode:
head`` (the default) only a head on cached features is trained; with ``full`` the trunk is trained,
too, and the trunk's factor of the learning rate is searched. A base whose ``update.method`` is a
closed form searches the closed forms and their settings instead.
"""

from __future__ import annotations

from typing import Any, cast

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.distillers import Distiller
from trainables.methods.method import Choice
from trainables.methods.updaters import Updater
from trainables.settings import assign
from trainables.stages import update

OBJECTIVES = ("evaluate/update/accuracy:max",)

# None rehearses all images of the known classes, which takes the most memory
EXEMPLARS = Choice((5, 20, 50, cast(Any, None)))


def choose_update(pick: Pick, base: Experiment) -> None:
    """Choose distillation, its weights, learning rates and exemplars; or a closed form."""
    if not base.update.method.trains:
        closed = [name for name in Updater.shelf if not Updater.shelf[name].trains]
        pick.method("update.method", base.update.method, closed)
        return
    distillers = suited(Distiller, update.PROVIDES["distiller"])
    pick.method("update.distiller", base.update.distiller, distillers)
    pick.field(base, "update.training.lr")
    pick.value("update.exemplars_per_class", base.update.exemplars_per_class, EXEMPLARS)
    if base.update.mode == "full":
        pick.field(base, "update.trunk_lr_factor")


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with the values that `pick` chose for the update."""
    choose_update(pick, base)
    return assign(base, pick.changes)
