from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, get_args

import torch

from trainables.class_weights import full_precision
from trainables.directions import directions
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
NEVER = -65504.0  # the lowest float16: no ordinary logit comes near, and it survives a cast
# How the head reads means of features that were transformed as it transforms them.
NEAREST_MEAN = {
    "normalized_squared_l2": "squared_l2",
    "centered_normalized_dot": "dot",
    "centered_normalized_squared_l2": "squared_l2",
}


class NCM(Rebalancer):
    """Replaces the head by the nearest class mean of the frozen features.

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
        distance: See above. The reference code calls them ``un``/l2, ``un``/cos, ``l2n``/cos,
            ``l2n``/l2, ``cl2n``/cos and ``cl2n``/l2; it has no ``cosine``. Each predicts what it
            predicts there; the factors, on which no prediction depends, are others.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with the head
        named above; trains nothing.

    An absent class has no mean: its logit offset is -65504, so it is never predicted.

    Source:
        Mensink et al. 2013, "Distance-Based Image Classification: Generalizing to New Classes at
        Near-Zero Cost"; Kang et al. 2020, arXiv 1910.09217, section 4.2;
        facebookresearch/classifier-balancing KNNClassifier.py and run_networks.py
        ``get_knncentroids`` (means of normalised features are not normalised again).

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

    def __call__(
        self, *, classifier: Classifier, features: torch.Tensor, labels: torch.Tensor
    ) -> Classifier:
        values = full_precision(features)
        center = values.new_zeros(values.shape[1])
        if self.distance.startswith("centered"):
            center = values.sum(dim=0) / max(len(values), 1)
        if self.distance not in ("squared_l2", "dot"):
            values = directions(values - center)
        counts = torch.bincount(labels, minlength=len(classifier.class_counts))
        means = values.new_zeros(len(counts), values.shape[1]).index_add_(0, labels, values)
        means = means / counts.clamp_min(1)[:, None]
        head, state = self._head(means, center)
        offset = torch.where(counts > 0, 0.0, NEVER).to(classifier.logit_offset)
        return classifier._replace(head=head, state=state, logit_offset=offset)

    def _head(
        self, means: torch.Tensor, center: torch.Tensor
    ) -> tuple[Head, dict[str, torch.Tensor]]:
        """Return the head that reads the means as ``distance`` says, and its state."""
        if self.distance == "cosine":
            return Head.parse({"cosine": {"scale": 30.0}}), {"weight": means}
        if self.distance in NEAREST_MEAN:
            head = Head.parse({"nearest_mean": {"distance": NEAREST_MEAN[self.distance]}})
            return head, {"weight": means, "center": center}
        squared = self.distance == "squared_l2"
        bias = -means.square().sum(dim=1) if squared else torch.zeros_like(means[:, 0])
        return Head.parse("linear"), {"weight": 2 * means if squared else means, "bias": bias}
