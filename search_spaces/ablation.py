"""Ablation: features against classifier, three ways to train the trunk by three to retrain a head.

Either is trained by cross-entropy, by cross-entropy with classes weighted by the inverse of their
size (re-weighting), or with every class drawn alike (re-sampling): nine points, three trunks. The
head is drawn anew and trained on the frozen features in all nine, so that a column differs in the
trunk alone and a row in the head alone. Nothing else varies: all points are listed, and a sweep of
9 trials tries each of them once.

Source: Zhou et al. 2020, "BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed
Visual Recognition", arXiv 1912.02413, figure 2, where features from plain cross-entropy under a
re-sampled classifier win.
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
    """Choose how the trunk is trained."""
    own = base.classify
    loss = pick.method_only("classify.loss", own.loss, LOSSES)
    if loss.name == "cross_entropy":
        pick.method_only("classify.sampler", own.sampler, DRAWS)
    elif loss != own.loss:  # one remedy at a time
        pick.changes["classify.sampler"] = "instance_balanced"


def choose_head(pick: Pick, base: Experiment) -> None:
    """Choose how a new head is trained on the frozen features."""
    path, own = "rebalance.method", base.rebalance.method
    if isinstance(own, CRT):
        pick.method_only(path, own, ())
    elif pick.value(path, own.name, Choice(("crt",))) != "crt":
        del pick.changes[path]  # the base itself, which corrects in another way
        return
    crt = own if isinstance(own, CRT) else CRT()
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
