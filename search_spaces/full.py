"""Full: rebalancer x confidence score x pseudo-labels x distillation, with few trunks.

All settings after the trunk's training vary as in `long_tail`, `open_world` and `update`. Of the
trunk's training only the loss varies, among cross-entropy, logit adjustment and class-balanced
loss, because each loss costs one training of the trunk, shared by all trials with this loss.
"""

from __future__ import annotations

from search_spaces import long_tail, open_world, update
from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.settings import assign

OBJECTIVES = ("evaluate/update/accuracy:max", "evaluate/novelty/auroc:max")

TRUNK_LOSSES = ("cross_entropy", "logit_adjustment", "class_balanced")


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with the values that `pick` chose for all parts."""
    pick.method_only("classify.loss", base.classify.loss, TRUNK_LOSSES)
    long_tail.choose_correction(pick, base)
    open_world.choose_confidence(pick, base)
    open_world.choose_pseudo_labels(pick, base)
    update.choose_update(pick, base)
    return assign(base, pick.changes)
