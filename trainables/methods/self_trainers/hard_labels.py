"""Self-training with hard pseudo-labels."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from trainables.functional.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.self_trainers import SelfTrainer


class HardLabels(SelfTrainer):
    """Self-training with the first classifier's most likely class as the pseudo-label.

    ``y_i = argmax_c z_ic``; ``weight_i`` is ``weight`` if ``max_c softmax(z_i)_c >= threshold``,
    otherwise 0.

    The weight is the paper's omega. In the paper omega multiplies the loss of unlabelled images,
    here the probability of drawing them, which is equal in expectation for every loss and sampler.
    With weight 1 every image is drawn once per epoch, as in the reference code. As in the reference
    code, losses and samplers use class counts over labelled and pseudo-labelled images.

    Args:
        weight: Sampling probability of a pseudo-labelled image over that of a labelled image, > 0.
            Default 1.
        threshold: Smallest probability of the label, in [0, 1]. Default 0 (all images), as in the
            reference code.

    Shapes:
        logits ``[N, C]`` -> pseudo_labels ``[N]`` int64, weights ``[N]`` float32.

    N may be 0. On a tie, the class with the smallest index is chosen.

    Source:
        Yang and Xu 2020, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning",
        arXiv:2006.07529, section 3.2; reference code YyzHarry/imbalanced-semi-self,
        gen_pseudolabels.py and train_semi.py; Lee 2013, "Pseudo-Label" (ICML workshop), for
        self-training with a threshold.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 0.1]])
        >>> HardLabels(weight=0.5, threshold=0.9)(logits=logits)
        (tensor([0, 1]), tensor([0.5000, 0.0000]))
    """

    extra_views: ClassVar[frozenset[str]] = frozenset({"unlabelled"})

    weight: Annotated[float, Field(gt=0), Range(0.1, 2.0, log=True)] = 1.0
    threshold: Annotated[float, Field(ge=0, le=1), Range(0.0, 0.95)] = 0.0

    def __call__(self, *, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        confidences, labels = full_precision(logits).softmax(1).max(1)
        kept = confidences >= self.threshold
        return labels, kept.float() * self.weight
