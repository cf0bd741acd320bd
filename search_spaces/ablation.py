"""Ablation of features and classifier: three trainings of the trunk times three of a new head.

Trunk and head are each trained with cross-entropy, with cross-entropy weighted by inverse class
size (re-weighting), or with class-balanced sampling (re-sampling), which gives nine points with
three trunks. In all points a new head is trained on the frozen features, so that points differ
either in the trunk or in the head. A sweep of 9 trials runs each point once.

Source: Zhou et al. 2020, "BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed
Visual Recognition", arXiv 1912.02413, figure 2, in which features of cross-entropy with a
re-sampled classifier are best.
"""

from __future__ import annotations

from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.methods.method import Choice
from trainables.methods.rebalancers.crt import CRT
from trainables.settings import assign

OBJECTIVES = ("evaluate/accuracy/balanced:max",)
GRID = True

LOSSES = ("cross_entropy", "cost_sensitive")
DRAWS = ("class_balanced", "instance_balanced")


def choose_trunk(pick: Pick, base: Experiment) -> None:
    """Choose loss and sampler of the trunk's training."""
    defaults = base.classify
    loss = pick.method_only("classify.loss", defaults.loss, LOSSES)
    if loss.name == "cross_entropy":
        pick.method_only("classify.sampler", defaults.sampler, DRAWS)
    elif loss != defaults.loss:  # re-weighting without re-sampling
        pick.changes["classify.sampler"] = "instance_balanced"


def choose_head(pick: Pick, base: Experiment) -> None:
    """Choose loss and sampling of a new head's training on the frozen features."""
    path, default = "rebalance.method", base.rebalance.method
    if isinstance(default, CRT):
        pick.method_only(path, default, ())
    elif pick.value(path, default.name, Choice(("crt",))) != "crt":
        del pick.changes[path]  # the base's rebalancer
        return
    crt = default if isinstance(default, CRT) else CRT()
    loss = pick.method_only(f"{path}.crt.loss", crt.loss, LOSSES)
    if loss.name == "cross_entropy":
        pick.value(f"{path}.crt.draws", crt.draws, Choice(DRAWS))
    elif loss != crt.loss:
        pick.changes[f"{path}.crt.draws"] = "instance_balanced"


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with one point of the grid."""
    choose_trunk(pick, base)
    choose_head(pick, base)
    return assign(base, pick.changes)
