"""Frozen: classifiers computed from the features of a frozen trunk, confidence, and threshold.

The trunk is the base's and stays as it is, so all trials share its features, and a trial takes a
few seconds. Choices are the rebalancers that are fitted to features alone (ridge, LDA, FeCAM,
nearest means and neighbors, and cRT) with their balancing, then calibrator, score and threshold,
each with its search ranges. For photos set `pretrain.method=pretrained`; with
`classify.training.epochs=0` no head is trained that the rebalancer would replace.
"""

from __future__ import annotations

from search_spaces import open_world
from search_spaces.pick import Pick, suited
from trainables.data.service_settings import SERVICE
from trainables.experiment import Experiment
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.thresholds import Threshold
from trainables.settings import assign
from trainables.stages import rebalance, score

OBJECTIVES = ("evaluate/accuracy/balanced:max", "evaluate/novelty/auroc:max")


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
    choose_classifier(pick, base)
    open_world.choose_confidence(pick, base)
    choose_threshold(pick, base)
    return assign(base, pick.changes)
