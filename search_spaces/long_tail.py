"""Long tail: how the first classifier learns, and the correction after.

The base's data, trunk, head and augmentation stay. Every loss, sampler and mixing that can train
the classifier takes part with its own ranges, and every correction that suits the base's head. The
loss decides what the features know of rare classes, so it is searched although each value costs a
training of the trunk; the correction on frozen features (`rebalance`) costs next to nothing and is
searched with it. A correction that trains a head may do so on a trunk whose batch norm was shifted
to classes drawn alike.
"""

from __future__ import annotations

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.branches import Branches
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.samplers import Sampler
from trainables.networks import OWN
from trainables.settings import assign
from trainables.stages import classify, rebalance

OBJECTIVES = ("evaluate/accuracy/balanced:max",)

# A margin is a share of the head's scale; on unscaled logits it drowns everything else.
MARGIN_LOSSES = ("arcface", "cosface", "ldam")
SCALED_HEADS = ("cosine", "causal_norm")
EXPERT_LOSSES = ("ride", "sade")
# An activation map is a linear head's view of the maps that the trunk pools.
ACTIVATION_MIXERS = ("cam_resampling",)
POOLED_TRUNKS = ("fastnet", "resnet32", "resnet18_small")
# They change the length of class vectors, which no other head has.
LINEAR_CORRECTIONS = ("lws", "lws_plus", "tau_norm")
EXPERT_CORRECTIONS = ("expert_routing", "expert_weights")
BATCH_NORM_TRUNKS = ("fastnet", "resnet", "densenet", "efficientnet", "mobilenet", "regnet")


def choose_training(pick: Pick, base: Experiment) -> None:
    """Choose how the first classifier is trained: one training of the trunk per choice."""
    losses = suited(Loss, classify.PROVIDES["loss"])
    losses = [name for name in losses if Loss.parse(name).trains_head()]  # others go into `joint`
    if base.classify.head.name not in SCALED_HEADS:
        losses = [name for name in losses if name not in MARGIN_LOSSES]
    if base.classify.head.name != "experts":
        losses = [name for name in losses if name not in EXPERT_LOSSES]
    samplers = suited(Sampler, classify.PROVIDES["sampler"])
    loss = pick.method("classify.loss", base.classify.loss, losses)
    pick.method("classify.sampler", base.classify.sampler, samplers)
    if "projections" not in loss.needs():
        mixers = suited(Mixer, classify.PROVIDES["mixing"])
        if base.classify.head.name != "linear" or base.pretrain.backbone not in POOLED_TRUNKS:
            mixers = [name for name in mixers if name not in ACTIVATION_MIXERS]
        pick.method("classify.mixing", base.classify.mixing, mixers)
    elif base.classify.mixing.name != "none":  # such a loss compares samples by their one class
        pick.changes["classify.mixing"] = "none"
    choose_branches(pick, base, loss)
    keep_follow_ups(pick, base, loss)
    pick.field(base, "classify.training.lr")


def keep_follow_ups(pick: Pick, base: Experiment, loss: Loss) -> None:
    """Leave out the base's follow-ups where they mix and what was chosen can't be mixed."""
    mixes = any(f.mixing is not None and f.mixing.name != "none" for f in base.classify.then)
    two = pick.changes.get("classify.branches", base.classify.branches.name) != "none"
    if mixes and (two or "projections" in loss.needs()):
        pick.changes["classify.then"] = "[]"


def choose_branches(pick: Pick, base: Experiment, loss: Loss) -> None:
    """Choose a second batch per step; one that does not go with loss and mixing is left out.

    The list is the same for every loss, because a study can't change a list on its way.
    """
    own_network = base.pretrain.backbone.partition("+")[0] in OWN
    names = [
        name for name in Branches.shelf if own_network or not Branches.parse(name).trunk_ending
    ]
    chosen = pick.method("classify.branches", base.classify.branches, names)
    if chosen.other_sampler() is None:
        return
    compares = "projections" in loss.needs()
    joins = compares and "projection_labels" in loss.takes()
    mixes = pick.changes.get("classify.mixing", base.classify.mixing.name) != "none"
    if mixes or not (joins if not chosen.trunk_ending else not compares):
        pick.changes["classify.branches"] = "none"


def choose_correction(pick: Pick, base: Experiment) -> None:
    """Choose the correction on frozen features, and batch norm's statistics where it trains."""
    corrections = suited(Rebalancer, rebalance.PROVIDES["method"])
    if base.classify.head.name != "linear":
        corrections = [name for name in corrections if name not in LINEAR_CORRECTIONS]
    if base.classify.head.name != "experts":
        corrections = [name for name in corrections if name not in EXPERT_CORRECTIONS]
    chosen = pick.method("rebalance.method", base.rebalance.method, corrections)
    # a head that does not train again would read the old statistics off the new features
    trains = "epochs" in type(chosen).model_fields
    if trains and base.pretrain.backbone.startswith(BATCH_NORM_TRUNKS):
        pick.field(base, "extract.batchnorm")


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with what `pick` chose for the long tail."""
    choose_training(pick, base)
    choose_correction(pick, base)
    return assign(base, pick.changes)
