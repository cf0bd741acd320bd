"""Nearest-class-mean head."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Choice, Range


class NearestMean(Head):
    """Nearest-class-mean classifier on centered and normalized features.

    With ``t(x) = (x - m) / |x - m|`` and a vector mu_c per class, the logits are
    ``squared_l2``: ``-scale |t(x) - mu_c|^2``; ``dot``: ``scale t(x) . mu_c``.

    The rebalancer ``ncm`` builds this head with mu_c the class mean of t and m the mean feature or
    zero. In ``classify.head`` mu is trained by gradient and m stays zero. Classes that are appended
    later get their mean of t.

    Args:
        distance: One of the forms above. Default ``squared_l2``.
        scale: Factor of the logits, > 0. Default 4. A larger scale makes the softmax more confident
            and requires a smaller learning rate, because the gradient of the squared distance
            grows with mu_c.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``, at most 0 with ``squared_l2``.

    Source:
        Mensink et al. 2013, "Distance-Based Image Classification: Generalizing to New Classes at
        Near-Zero Cost"; Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed
        Recognition", arXiv:1910.09217, section 4.2; reference code
        facebookresearch/classifier-balancing, models/KNNClassifier.py, with a scale of 1 (``dot``:
        1 / D). A feature equal to the center gives NaN in the reference code, t = 0 here.

    Example:
        >>> head = NearestMean(scale=1.0).build(2, 2)
        >>> head.weight.data = torch.eye(2)
        >>> head(torch.tensor([[5.0, 0.0]])).tolist()  # t = (1, 0)
        [[0.0, -2.0]]
        >>> head.center.copy_(torch.tensor([5.0, -1.0]))
        tensor([ 5., -1.])
        >>> head(torch.tensor([[5.0, 0.0]])).tolist()  # t = (0, 1)
        [[-2.0, 0.0]]
    """

    distance: Annotated[Literal["squared_l2", "dot"], Choice(("squared_l2", "dot"))] = "squared_l2"
    scale: Annotated[float, Field(gt=0, le=1000), Range(1.0, 8.0, log=True)] = 4.0

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.nearest_mean import NearestMeanHead

        squared = self.distance == "squared_l2"
        return NearestMeanHead(num_features, num_classes, squared=squared, scale=self.scale)
