"""Families: one recipe of each family of long-tailed methods, compared on shared trunks.

Fifteen points with five trunks, trained with the base's loss, deferred re-weighting, logit
adjustment in the loss, the causal norm head with TDE, or mixup. After the base's trunk and mixup's
come no rebalancer, post-hoc logit adjustment, cRT, LWS, tau-normalization, or LWS+ with label-aware
smoothing (with mixup, MiSLAS). All methods have their default settings. A sweep of 15 trials runs
each point once, to find before a search which family helps on the data.
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
    """Choose one method, or two methods that belong together."""
    defaults, correction = base.classify, base.rebalance.method
    if pick.method_only("classify.loss", defaults.loss, LOSSES) != defaults.loss:
        return
    if pick.method_only("classify.head", defaults.head, ("causal_norm",)) != defaults.head:
        pick.changes["rebalance.method"] = "tde"  # sets the correction of that head
        return
    mixers = ("mixup",) if base.trunk_tuner().moves else ()  # features are not mixed
    pick.method_only("classify.mixing", defaults.mixing, mixers)
    if pick.method_only("rebalance.method", correction, CORRECTIONS).name == "lws_plus":
        pick.changes["rebalance.method.lws_plus.loss"] = "label_aware_smoothing"


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with one family's methods."""
    choose_family(pick, base)
    return assign(base, pick.changes)
