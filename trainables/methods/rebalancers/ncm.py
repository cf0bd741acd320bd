"""Nearest class mean (NCM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from trainables.closed_form.fitting import ClosedForm, Fit
from trainables.closed_form.out_of_fold import (
    leave_out_means,
    out_of_fold_scale,
    prior_offset,
    scaled_logits,
)
from trainables.closed_form.statistics import Samples
from trainables.functional.class_weights import full_precision
from trainables.functional.l2_normalize import l2_normalize
from trainables.methods.heads import Head
from trainables.methods.method import Choice
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

Distance = Literal[
    "squared_l2",
    "dot",
    "normalized_dot",
    "normalized_squared_l2",
    "centered_normalized_dot",
    "centered_normalized_squared_l2",
    "cosine",
]
COSINE_SCALE, DISTANCE_SCALE = 30.0, 4.0
MOST = 1000.0  # the largest scale that these heads take
# distance of the nearest_mean head, by this method's distance
NEAREST_MEAN = {
    "normalized_squared_l2": "squared_l2",
    "centered_normalized_dot": "dot",
    "centered_normalized_squared_l2": "squared_l2",
}

LOOKED_UP = {"heads": ("cosine", "linear", "nearest_mean")}


class NCM(ClosedForm, Rebalancer):
    """Nearest class mean (NCM): a head from class means of the frozen features, without training.

    mu_c is the mean training feature of class c, m that of all training images, nu_c the mean of
    ``x / |x|`` in class c, and kappa_c that of ``t(x) = (x - m) / |x - m|``. The logits are

    ``squared_l2``: ``2 mu_c . x - |mu_c|^2`` (= ``|x|^2 - |x - mu_c|^2``, a linear head);
    ``dot``: ``mu_c . x`` (a linear head);
    ``normalized_dot``: ``nu_c . x`` (a linear head);
    ``normalized_squared_l2``: ``-4 |x / |x| - nu_c|^2`` (a nearest-mean head);
    ``centered_normalized_dot``: ``4 kappa_c . t(x)`` (a nearest-mean head);
    ``centered_normalized_squared_l2``: ``-4 |t(x) - kappa_c|^2`` (a nearest-mean head);
    ``cosine``: ``30 cos(x, nu_c)`` (a cosine head).

    Args:
        distance: One of the forms above. The first six are ``un``/l2, ``un``/cos, ``l2n``/cos,
            ``l2n``/l2, ``cl2n``/cos and ``cl2n``/l2 in the reference code, with the same
            predictions but other scale factors; the reference code has no ``cosine``.
        scale: ``fixed``: the factors above. ``fitted``: times the factor that maximizes the
            likelihood of exact out-of-fold answers, each class counting alike; not for the forms
            with a center, which have no such answers.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with the head
        named above.

    An absent class has no mean; its logit offset is -65504, so the class is never predicted.

    Source:
        Mensink et al. 2013, "Distance-Based Image Classification: Generalizing to New Classes at
        Near-Zero Cost"; Kang et al. 2020, arXiv 1910.09217, section 4.2;
        facebookresearch/classifier-balancing KNNClassifier.py and run_networks.py
        ``get_knncentroids`` (means of normalized features are not normalized again).

    Example:
        >>> from trainables.artifacts import Classifier
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, torch.ones(2), zeros[:1])
        >>> features, labels = torch.tensor([[1.0], [3.0], [6.0]]), torch.tensor([0, 0, 1])
        >>> state = NCM()(classifier=trained, features=features, labels=labels).state
        >>> state["weight"].flatten().tolist(), state["bias"].tolist()  # equal at x = 4
        ([4.0, 12.0], [-4.0, -36.0])
    """

    distance: Annotated[Distance, Choice(get_args(Distance))] = "squared_l2"
    scale: Literal["fixed", "fitted"] = "fixed"

    @model_serializer(mode="wrap")
    def _usual_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a fixed scale: recipes stored before keep their digests."""
        tree: dict[str, Any] = dump(self)
        return {key: value for key, value in tree.items() if (key, value) != ("scale", "fixed")}

    @model_validator(mode="after")
    def _has_answers_to_fit(self) -> Self:
        """Refuse a fitted scale for the forms with a center."""
        if self.scale == "fitted" and self._centered():
            allowed = ", ".join(name for name in get_args(Distance) if "centered" not in name)
            raise ValueError(
                f"rebalancers/ncm.scale: 'fitted' goes with the distances {allowed}; "
                f"received {self.distance}"
            )
        return self

    @classmethod
    def fit_each(
        cls, methods: Sequence[NCM], *, classifier: Classifier, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit several settings, one after the other."""
        for place, method in enumerate(methods):
            yield place, method._fit(classifier, data)

    def _fit(self, classifier: Classifier, data: Samples) -> Fit:
        values, center = self._prepared(data.features)
        counts = torch.bincount(data.labels, minlength=len(classifier.class_counts))
        means = values.new_zeros(len(counts), values.shape[1]).index_add_(0, data.labels, values)
        means = means / counts.clamp_min(1)[:, None]
        offset = prior_offset(counts, 0.0)
        logits, factor = None, 1.0
        if not self._centered():
            logits = leave_out_means(data._replace(features=values), len(counts), self._logits)
            if self.scale == "fitted":
                factor = out_of_fold_scale(logits, data).scale
            logits = scaled_logits(logits, factor, offset)
        head, state = self._head(means, center, factor)
        offset = offset.to(classifier.logit_offset)
        return Fit(classifier._replace(head=head, state=state, logit_offset=offset), logits)

    def _centered(self) -> bool:
        return self.distance.startswith("centered")

    def _prepared(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features as the means see them ``[N, D]``, and their center ``[D]``."""
        values = full_precision(features)
        center = values.new_zeros(values.shape[1])
        if self._centered():
            center = values.sum(dim=0) / max(len(values), 1)
        if self.distance not in ("squared_l2", "dot"):
            values = l2_normalize(values - center)
        return values, center

    def _logits(self, inputs: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Return logits ``[B, M, K]`` of features ``[B, M, D]`` for means ``[B, K, D]``."""
        if self.distance == "cosine":
            return COSINE_SCALE * inputs @ l2_normalize(means, dim=2).transpose(1, 2)
        products = inputs @ means.transpose(1, 2)
        if self.distance in ("dot", "normalized_dot"):
            return products
        lengths = means.square().sum(dim=2)[:, None]
        if self.distance == "squared_l2":
            return 2 * products - lengths
        return DISTANCE_SCALE * (2 * products - lengths - inputs.square().sum(dim=2, keepdim=True))

    def _head(
        self, means: torch.Tensor, center: torch.Tensor, factor: float
    ) -> tuple[Head, dict[str, torch.Tensor]]:
        """Return the head for the chosen ``distance``, and its state."""
        if self.distance == "cosine":
            scale = min(COSINE_SCALE * factor, MOST)
            return Head.parse({"cosine": {"scale": scale}}), {"weight": means}
        if self.distance in NEAREST_MEAN:
            settings: dict[str, Any] = {"distance": NEAREST_MEAN[self.distance]}
            if factor != 1:
                settings["scale"] = min(DISTANCE_SCALE * factor, MOST)
            return Head.parse({"nearest_mean": settings}), {"weight": means, "center": center}
        squared = self.distance == "squared_l2"
        bias = -means.square().sum(dim=1) if squared else torch.zeros_like(means[:, 0])
        weight = 2 * means if squared else means
        return Head.parse("linear"), {"weight": factor * weight, "bias": factor * bias}
