"""Full: rebalance strategy x confidence method x distillation weights, over few trunks.

Everything behind the trunk varies as in `long_tail`, `open_world` and `update`. Of the trunk's own
training only the loss varies, among three with the base's settings (plain, prior-shifted, and
re-weighted), because each one costs a training that all trials which choose it then share.
"""

from __future__ import annotations

from search_spaces import long_tail, open_world, update
from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.settings import assign

OBJECTIVES = ("evaluate/update/accuracy:max", "evaluate/novelty/auroc:max")

TRUNK_LOSSES = ("cross_entropy", "logit_adjustment", "class_balanced")


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with what `pick` chose for all three studies."""
    pick.method_only("classify.loss", base.classify.loss, TRUNK_LOSSES)
    long_tail.choose_correction(pick, base)
    open_world.choose_confidence(pick, base)
    open_world.choose_pseudo_labels(pick, base)
    update.choose_update(pick, base)
    return assign(base, pick.changes)
