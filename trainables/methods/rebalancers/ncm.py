from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch

from trainables.methods.heads import Head
from trainables.methods.method import Choice
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

NEVER = -65504.0  # the lowest float16: no ordinary logit comes near, and it survives a cast


class NCM(Rebalancer):
    """Replaces the head by the nearest class mean of the frozen features.

    With mu_c the mean training feature of class c, and nu_c the mean of the features scaled to
    length 1, the logits are
    ``squared_l2``: ``2 mu_c . x - |mu_c|^2`` (= ``|x|^2 - |x - mu_c|^2``, a linear head);
    ``dot``: ``mu_c . x`` (a linear head);
    ``normalized_dot``: ``nu_c . x`` (a linear head);
    ``cosine``: ``30 cos(x, nu_c)`` (a cosine head).

    Args:
        distance: See above. The first three predict what the reference code does with ``un``/l2,
            ``un``/cos and ``l2n``/cos, up to factors that no prediction depends on.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with a linear
        or cosine head; trains nothing.

    An absent class has no mean: its logit offset is -65504, so it is never predicted.

    Source:
        Mensink et al. 2013, "Distance-Based Image Classification: Generalizing to New Classes at
        Near-Zero Cost"; Kang et al. 2020, arXiv 1910.09217, section 4.2;
        facebookresearch/classifier-balancing KNNClassifier.py (centroids are not normalised again).
        Its forms ``l2n``/l2 and ``cl2n`` transform what is predicted too, which no head here does.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, torch.ones(2), zeros[:1])
        >>> features, labels = torch.tensor([[1.0], [3.0], [6.0]]), torch.tensor([0, 0, 1])
        >>> state = NCM()(classifier=trained, features=features, labels=labels).state
        >>> state["weight"].flatten().tolist(), state["bias"].tolist()  # equal at x = 4
        ([4.0, 12.0], [-4.0, -36.0])
    """

    distance: Annotated[
        Literal["squared_l2", "dot", "normalized_dot", "cosine"],
        Choice(("squared_l2", "dot", "normalized_dot", "cosine")),
    ] = "squared_l2"

    def __call__(
        self, *, classifier: Classifier, features: torch.Tensor, labels: torch.Tensor
    ) -> Classifier:
        values = features.to(torch.promote_types(features.dtype, torch.float32))
        if self.distance in ("normalized_dot", "cosine"):
            values = torch.nn.functional.normalize(values, dim=1)
        counts = torch.bincount(labels, minlength=len(classifier.class_counts))
        means = values.new_zeros(len(counts), values.shape[1]).index_add_(0, labels, values)
        means = means / counts.clamp_min(1)[:, None]
        offset = torch.where(counts > 0, 0.0, NEVER).to(classifier.logit_offset)
        if self.distance == "cosine":
            head = Head.parse({"cosine": {"scale": 30.0}})
            return classifier._replace(head=head, state={"weight": means}, logit_offset=offset)
        squared = self.distance == "squared_l2"
        bias = -means.square().sum(dim=1) if squared else torch.zeros_like(means[:, 0])
        state = {"weight": 2 * means if squared else means, "bias": bias}
        return classifier._replace(head=Head.parse("linear"), state=state, logit_offset=offset)
