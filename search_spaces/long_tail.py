"""Long tail: training of the first classifier, and rebalancing.

Data, trunk, head and augmentation are the base's. Choices are all losses, samplers and mixers that
can train the classifier, and all rebalancers that support the base's head, each with its search
ranges. The loss is searched, although each value costs a training of the trunk, because the loss
determines the features of rare classes; the rebalancer on frozen features costs very little. For
rebalancers that train a head, batch norm's statistics may be shifted to class-balanced sampling.
"""

from __future__ import annotations

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.branches import Branches
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.samplers import Sampler
from trainables.models.networks import OWN
from trainables.settings import assign
from trainables.stages import classify, rebalance

OBJECTIVES = ("evaluate/accuracy/balanced:max",)

# the logits of other heads have no scale, so that a margin times the scale would dominate the loss
MARGIN_LOSSES = ("arcface", "cosface", "ldam")
SCALED_HEADS = ("cosine", "causal_norm")
EXPERT_LOSSES = ("ride", "sade")
# an activation map needs a linear head on pooled feature maps
ACTIVATION_MIXERS = ("cam_resampling",)
POOLED_TRUNKS = ("fastnet", "resnet32", "resnet18_small")
# rebalancers that change the norms of class vectors need a linear head
LINEAR_CORRECTIONS = ("lws", "lws_plus", "tau_norm")
EXPERT_CORRECTIONS = ("expert_routing", "expert_weights")
BATCH_NORM_TRUNKS = ("fastnet", "resnet", "densenet", "efficientnet", "mobilenet", "regnet")


def choose_training(pick: Pick, base: Experiment) -> None:
    """Choose loss, sampler, mixing and branches; each combination costs a training of the trunk."""
    losses = suited(Loss, classify.PROVIDES["loss"])
    losses = [name for name in losses if Loss.parse(name).trains_head()]  # others are in `joint`
    if base.classify.head.name not in SCALED_HEADS:
        losses = [name for name in losses if name not in MARGIN_LOSSES]
    if base.classify.head.name != "experts":
        losses = [name for name in losses if name not in EXPERT_LOSSES]
    frozen = not base.trunk_tuner().moves
    if frozen:  # no views of an image to compare
        losses = [n for n in losses if "projections" not in Loss.parse(n).required_inputs()]
    samplers = suited(Sampler, classify.PROVIDES["sampler"])
    loss = pick.method("classify.loss", base.classify.loss, losses)
    pick.method("classify.sampler", base.classify.sampler, samplers)
    if not frozen:
        choose_batches(pick, base, loss)
    pick.field(base, "classify.training.lr")


def choose_batches(pick: Pick, base: Experiment, loss: Loss) -> None:
    """Choose mixing and branches, of batches of images, for a loss."""
    if "projections" not in loss.required_inputs():
        mixers = suited(Mixer, classify.PROVIDES["mixing"])
        if base.classify.head.name != "linear" or base.pretrain.backbone not in POOLED_TRUNKS:
            mixers = [name for name in mixers if name not in ACTIVATION_MIXERS]
        pick.method("classify.mixing", base.classify.mixing, mixers)
    elif base.classify.mixing.name != "none":  # a contrastive loss needs one label per sample
        pick.changes["classify.mixing"] = "none"
    choose_branches(pick, base, loss)
    keep_follow_ups(pick, base, loss)


def keep_follow_ups(pick: Pick, base: Experiment, loss: Loss) -> None:
    """Drop the base's follow-up phases if they mix samples but loss or branches forbid mixing."""
    mixes = any(f.mixing is not None and f.mixing.name != "none" for f in base.classify.then)
    two = pick.changes.get("classify.branches", base.classify.branches.name) != "none"
    if mixes and (two or "projections" in loss.required_inputs()):
        pick.changes["classify.then"] = "[]"


def choose_branches(pick: Pick, base: Experiment, loss: Loss) -> None:
    """Choose the branches, and reset a choice that does not support the loss or the mixing.

    The choices are the same for all losses, because Optuna's choices of a parameter are fixed.
    """
    own_network = base.pretrain.backbone.partition("+")[0] in OWN
    names = [
        name for name in Branches.shelf if own_network or not Branches.parse(name).trunk_ending
    ]
    chosen = pick.method("classify.branches", base.classify.branches, names)
    if chosen.other_sampler() is None:
        return
    compares = "projections" in loss.required_inputs()
    joins = compares and "projection_labels" in loss.accepted_inputs()
    mixes = pick.changes.get("classify.mixing", base.classify.mixing.name) != "none"
    if mixes or not (joins if not chosen.trunk_ending else not compares):
        pick.changes["classify.branches"] = "none"


def choose_correction(pick: Pick, base: Experiment) -> None:
    """Choose the rebalancer and, if it trains a head, batch norm's statistics."""
    corrections = suited(Rebalancer, rebalance.PROVIDES["method"])
    if base.classify.head.name != "linear":
        corrections = [name for name in corrections if name not in LINEAR_CORRECTIONS]
    if base.classify.head.name != "experts":
        corrections = [name for name in corrections if name not in EXPERT_CORRECTIONS]
    chosen = pick.method("rebalance.method", base.rebalance.method, corrections)
    # only a head that is trained again fits features under shifted statistics
    trains = "epochs" in type(chosen).model_fields
    if trains and base.pretrain.backbone.startswith(BATCH_NORM_TRUNKS):
        pick.field(base, "extract.batchnorm")


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with the values that `pick` chose for the long tail."""
    choose_training(pick, base)
    choose_correction(pick, base)
    return assign(base, pick.changes)
