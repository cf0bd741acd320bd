"""Long tail: how the first classifier learns, and the correction after.

The base's data, trunk and augmentation stay. Every loss and sampler that can train the classifier
takes part with its own ranges. The loss decides what the features know of rare classes, so it is
searched although each value costs a training of the trunk; the correction on frozen features
(`rebalance`) costs next to nothing and is searched with it.
"""

from __future__ import annotations

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.methods.samplers import Sampler
from trainables.settings import assign
from trainables.stages import classify

OBJECTIVES = ("evaluate/accuracy/balanced:max",)

# A margin is a share of the head's scale; on unscaled logits it drowns everything else.
MARGIN_LOSSES = ("ldam", "arcface", "cosface")
SCALED_HEADS = ("cosine", "causal_norm")


def choose_training(pick: Pick, base: Experiment) -> None:
    """Choose how the first classifier is trained: one training of the trunk per choice."""
    losses = suited(Loss, classify.PROVIDES["loss"])
    losses = [name for name in losses if Loss.shelf[name].takes() >= {"logits"}]
    if base.classify.head.name not in SCALED_HEADS:
        losses = [name for name in losses if name not in MARGIN_LOSSES]
    samplers = suited(Sampler, classify.PROVIDES["sampler"])
    loss = pick.method("classify.loss", base.classify.loss, losses)
    pick.method("classify.sampler", base.classify.sampler, samplers)
    if "projections" in loss.needs():  # compares samples by class: a mixed one has two
        pick.changes["classify.mixing"] = "none"
    else:
        mixers = suited(Mixer, classify.PROVIDES["mixing"])
        pick.method("classify.mixing", base.classify.mixing, mixers)
    pick.field(base, "classify.training.lr")


def choose_correction(pick: Pick, base: Experiment) -> None:
    """Choose the correction on frozen features."""
    pick.method("rebalance.method", base.rebalance.method)


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with what `pick` chose for the long tail."""
    choose_training(pick, base)
    choose_correction(pick, base)
    return assign(base, pick.changes)
