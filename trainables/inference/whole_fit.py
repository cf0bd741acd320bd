"""A rebalancer fitted to all training images, with answers to them by fits without their group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Classifier
from trainables.closed_form.fitting import ClosedForm
from trainables.closed_form.statistics import samples
from trainables.features.rebalancer_search import answer_out_of_fold
from trainables.methods.rebalancers import Rebalancer


class WholeFit(NamedTuple):
    """The rebalanced classifier, and its logits out of fold ``[N, C]``; ``None``: it has none."""

    classifier: Classifier
    logits: Tensor | None


def fit_with_answers(method: Rebalancer, available: Mapping[str, Any]) -> WholeFit:
    """Apply a rebalancer to all training images, and answer them by fits without their group.

    Logits are exact where the rebalancer has a closed form, which is then computed once; otherwise
    they come from five folds. A search over rebalancers picks one by answers out of fold first, a
    mixture its members. A rebalancer that starts from the given classifier has no such answers.

    Args:
        method: The rebalancer.
        available: Arguments of rebalancers by name, with features ``[N, D]``, labels ``[N]``,
            ``report``, ``generator`` and, if images have groups, ``groups [N]``.
    """
    if hasattr(method, "picked"):
        method = method.call_with(available, "picked")
    if hasattr(method, "fit_out_of_fold"):
        return WholeFit(*method.call_with(available, "fit_out_of_fold"))
    if isinstance(method, ClosedForm):
        fit = method.fit(
            classifier=available["classifier"],
            features=available["features"],
            labels=available["labels"],
            groups=available.get("groups"),
        )
        if fit.figures:
            available["report"](fit.figures, 0)
        if fit.logits is not None:
            return WholeFit(fit.classifier, fit.logits)
    classifier: Classifier = method.call_with(available)
    if not method.from_features:
        return WholeFit(classifier, None)
    data = samples(available["features"], available["labels"], groups=available.get("groups"))
    seed = int(torch.randint(2**62, (), generator=available["generator"]))
    found = dict(answer_out_of_fold([method], available, data, seed=seed))
    return WholeFit(classifier, found.get(0))
