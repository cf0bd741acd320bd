"""tau-normalization of the class vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class TauNorm(Rebalancer):
    """tau-normalization of the class vectors, whose norms grow with class size in training.

    ``w_c <- w_c / |w_c|^tau``.

    Args:
        tau: Strength; 0 leaves the norms unchanged, 1 makes all norms one, values above 1 favor
            classes with short vectors. The paper chooses tau in [0, 2] per data set on the
            evaluation split; the default 1 is that of BagofTricks-LT.
        keep_bias: Keep the bias of the head. The reference code drops it, because the bias also
            depends on class size.

    Shapes:
        classifier: linear head. Returns the classifier with new weights, without training. A zero
        class vector stays zero.

    Raises:
        ValueError: The head is not linear.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv 1910.09217, eq. (5); facebookresearch/classifier-balancing tau_norm.py (drops the
        bias), BagofTricks-LT (keeps it).

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> state = {"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "bias": torch.ones(2)}
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 2, state, zeros, zeros, zeros)
        >>> TauNorm(tau=1.0)(classifier=trained).state["weight"]
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """

    tau: Annotated[float, Field(ge=0, le=10), Range(0.0, 2.0)] = 1.0
    keep_bias: bool = False

    def __call__(self, *, classifier: Classifier) -> Classifier:
        if classifier.head.name != "linear":
            raise ValueError(
                f"rebalancers/tau_norm needs the head 'linear'; received '{classifier.head.name}'; "
                "set classify.head=linear"
            )
        weight = classifier.state["weight"]
        length = weight.norm(dim=1, keepdim=True)
        # a zero vector has no direction, so it stays zero
        factor = torch.where(length > 0, length, torch.ones_like(length)).pow(self.tau)
        state = {**classifier.state, "weight": weight / factor}
        if "bias" in state and not self.keep_bias:
            state["bias"] = torch.zeros_like(state["bias"])
        return classifier._replace(state=state)
