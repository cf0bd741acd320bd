"""Post-hoc logit adjustment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import class_prior, filled_counts
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class LogitAdjustment(Rebalancer):
    """Post-hoc logit adjustment, subtraction of the log class prior from the logits.

    ``logit_offset_c = -log(pi_c^tau + 1e-12)`` with ``pi_c`` the frequency of class c in the
    training set. The adjustment minimizes the balanced error if the logits are calibrated on the
    long-tailed data. After a loss that already contains the prior (``logit_adjustment``,
    ``balanced_softmax``), the adjustment would correct twice.

    Args:
        tau: Strength, >= 0; 0 changes nothing, 1 is the paper's Bayes-optimal correction.

    Shapes:
        classifier: any head. class_counts [C] int64. Returns the classifier with a new
        ``logit_offset [C]``, without training.

    An absent class (``n_c = 0``) counts as the rarest present class. Equal counts give equal
    offsets.

    Source:
        Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv 2007.07314, eq. (9);
        google-research/logit_adjustment main.py (with the power and 1e-12 inside the logarithm, so
        that the offset is at most -log 1e-12). Only absent classes are treated differently.

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
        # as in the reference code, 1e-12 inside the logarithm bounds the offset for a large tau
        offset = -(class_prior(filled_counts(class_counts)).pow(self.tau) + 1e-12).log()
        return classifier._replace(logit_offset=offset.to(classifier.logit_offset))
