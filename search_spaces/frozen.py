"""Frozen: classifiers computed from the features of a frozen trunk, confidence, and threshold.

The trunk is the base's and stays as it is, so all trials share its features, and a trial takes a
few seconds. Of pretrained weights, the layer that gives the features and the way of pooling vary
too, as far as the network has them: one pass over the images gives all of these features. Further
choices are the rebalancers that are fitted to features alone (ridge, LDA, FeCAM, nearest means and
neighbors, and cRT) with their balancing, then calibrator, score and threshold, each with its search
ranges. For photos set `pretrain.method=pretrained`; with `classify.training.epochs=0` no head is
trained that the rebalancer would replace.
"""

from __future__ import annotations

from functools import cache

import torch

from search_spaces import open_world
from search_spaces.pick import Pick, suited
from trainables.data.service_settings import SERVICE
from trainables.experiment import Experiment
from trainables.methods.method import Choice
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.thresholds import Threshold
from trainables.models.backbone import build_trunk
from trainables.models.extraction.readings import Choices, choices
from trainables.models.networks import OWN
from trainables.settings import assign
from trainables.stages import rebalance, score
from trainables.weights.sources import describe
from trainables.weights.timm_networks import SMALL_IMAGE

OBJECTIVES = ("evaluate/accuracy/balanced:max", "evaluate/novelty/auroc:max")


def choose_reading(pick: Pick, base: Experiment) -> None:
    """Choose the layer of a frozen pretrained trunk that gives the features, and its pooling."""
    pretrain = base.pretrain
    own = pretrain.backbone.partition("+")[0] in OWN
    if own or pretrain.method.name != "pretrained" or base.trunk_tuner().moves:
        return
    offered = _readings(pretrain.backbone, base.data.image_size or SMALL_IMAGE)
    poolings = dict.fromkeys((pretrain.pooling, "default", *offered.poolings))
    pick.value("pretrain.pooling", pretrain.pooling, Choice(tuple(poolings)))
    layers = sorted({pretrain.layer, *offered.layers})
    pick.value("pretrain.layer", pretrain.layer, Choice(tuple(layers)))


@cache
def _readings(backbone: str, size: int) -> Choices:
    """Return what a network of timm offers; its weights make no difference."""
    trunk = build_trunk(describe(backbone).architecture, size).eval()
    return choices(trunk, torch.linspace(0, 1, 3 * size * size).view(1, 3, size, size))


def choose_classifier(pick: Pick, base: Experiment) -> None:
    """Choose the family of the classifier, with its balancing and shrinkage."""
    names = suited(Rebalancer, rebalance.PROVIDES["method"])
    families = [name for name in names if Rebalancer.shelf[name].from_features]
    pick.method("rebalance.method", base.rebalance.method, families)


def choose_threshold(pick: Pick, base: Experiment) -> None:
    """Choose the rule that sets the threshold of the confidence.

    In world ``service`` it stays the base's: how often known images may be called unknown is for
    the user to say, and rules that need images of new classes find none.
    """
    if base.data.world == SERVICE:
        return
    thresholds = suited(Threshold, score.PROVIDES["threshold"])
    pick.method("score.threshold", base.score.threshold, thresholds)


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with the values that `pick` chose for classifier and confidence."""
    choose_reading(pick, base)
    choose_classifier(pick, base)
    open_world.choose_confidence(pick, base)
    choose_threshold(pick, base)
    return assign(base, pick.changes)
