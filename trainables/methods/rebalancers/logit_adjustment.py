from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.class_weights import class_prior, filled_counts
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class LogitAdjustment(Rebalancer):
    """Subtracts the log class prior from the logits, after training (post-hoc logit adjustment).

    ``logit_offset_c = -log(pi_c^tau + 1e-12)`` with ``pi_c`` the share of class c in the training
    set. Minimises the balanced error if the logits are calibrated on the long-tailed data. Not for
    a classifier that was trained with a loss that already holds the prior (``logit_adjustment``,
    ``balanced_softmax``): there it would count twice.

    Args:
        tau: Strength, >= 0; 0 changes nothing, 1 is the Bayes-optimal correction of the paper.

    Shapes:
        classifier: any head. class_counts [C] int64. Returns the classifier with
        ``logit_offset [C]`` replaced; trains nothing, so it takes microseconds.

    An absent class (``n_c = 0``) counts as the rarest present one. Equal counts give equal offsets.

    Source:
        Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv 2007.07314, eq. (9);
        google-research/logit_adjustment main.py (the power is inside the logarithm, with 1e-12,
        so a large tau saturates at -log 1e-12). Differs only for absent classes.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> zeros = torch.zeros(2, dtype=torch.float64)
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, zeros, zeros[:1])
        >>> counts = torch.tensor([3, 1])
        >>> LogitAdjustment()(classifier=trained, class_counts=counts).logit_offset.exp()
        tensor([1.3333, 4.0000], dtype=torch.float64)
    """

    tau: Annotated[float, Field(ge=0), Range(0.25, 2.0)] = 1.0

    def __call__(self, *, classifier: Classifier, class_counts: torch.Tensor) -> Classifier:
        # the official code adds 1e-12 inside the logarithm: it bounds the offset for a large tau
        offset = -(class_prior(filled_counts(class_counts)).pow(self.tau) + 1e-12).log()
        return classifier._replace(logit_offset=offset.to(classifier.logit_offset))
