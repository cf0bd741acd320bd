"""Families: one recipe of each family of long-tailed methods, side by side on shared trunks.

Fifteen points, five trunks: the base's loss, deferred re-weighting, logit adjustment in the loss,
the causal norm head with TDE, and mixup. The base's trunk and mixup's are followed by nothing, by
logit adjustment after training, cRT, LWS, tau-norm, or LWS-plus under label-aware smoothing (with
mixup that is MiSLAS). Each has its methods' own defaults; nothing else varies. All points are
listed, and a sweep of 15 trials tries each of them once: the quickest answer to what helps on your
images, before a search.
"""

from __future__ import annotations

from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.settings import assign

OBJECTIVES = ("evaluate/accuracy/balanced:max",)
GRID = True

LOSSES = ("deferred", "logit_adjustment")
CORRECTIONS = ("logit_adjustment", "crt", "lws", "lws_plus", "tau_norm")


def choose_family(pick: Pick, base: Experiment) -> None:
    """Choose one remedy, or two that go together."""
    own, correction = base.classify, base.rebalance.method
    if pick.method_only("classify.loss", own.loss, LOSSES) != own.loss:
        return
    if pick.method_only("classify.head", own.head, ("causal_norm",)) != own.head:
        pick.changes["rebalance.method"] = "tde"  # which is made for that head
        return
    pick.method_only("classify.mixing", own.mixing, ("mixup",))
    if pick.method_only("rebalance.method", correction, CORRECTIONS).name == "lws_plus":
        pick.changes["rebalance.method.lws_plus.loss"] = "label_aware_smoothing"


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with one family's methods."""
    choose_family(pick, base)
    return assign(base, pick.changes)
