"""The likeliest class is the label, if it is likely enough."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from trainables.class_weights import full_precision
from trainables.methods.method import Range
from trainables.methods.self_trainers import SelfTrainer


class HardLabels(SelfTrainer):
    """Self-training: the likeliest class under a first classifier becomes an image's label.

    ``y_i = argmax_c z_ic``; ``weight_i = weight`` where ``max_c softmax(z_i)_c >= threshold``,
    else 0.

    The weight (the paper's omega, which there multiplies the loss of the unlabelled images)
    multiplies the chance of being drawn: the same in expectation, for any loss and any sampler.
    With 1 every image comes once per epoch, as in the reference code. Losses and samplers count
    classes over labelled and pseudo-labelled images together, as that code does.

    Args:
        weight: Chance of a pseudo-labelled image over that of a labelled one, above 0. Default 1.
        threshold: Least probability of the label, in [0, 1]. Default 0: all images, as in the
            reference code.

    Shapes:
        logits ``[N, C]`` -> pseudo_labels ``[N]`` int64, weights ``[N]`` float32.

    Empty in, empty out. The first of equally likely classes is taken.

    Source:
        Yang and Xu 2020, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning",
        arXiv:2006.07529, section 3.2; reference code YyzHarry/imbalanced-semi-self,
        gen_pseudolabels.py and train_semi.py. The threshold is that of Lee 2013, "Pseudo-Label"
        (ICML workshop) as used since.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 0.1]])
        >>> HardLabels(weight=0.5, threshold=0.9)(logits=logits)
        (tensor([0, 1]), tensor([0.5000, 0.0000]))
    """

    reads: ClassVar[frozenset[str]] = frozenset({"unlabelled"})

    weight: Annotated[float, Field(gt=0), Range(0.1, 2.0, log=True)] = 1.0
    threshold: Annotated[float, Field(ge=0, le=1), Range(0.0, 0.95)] = 0.0

    def __call__(self, *, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sureness, labels = full_precision(logits).softmax(1).max(1)
        kept = sureness >= self.threshold
        return labels, kept.float() * self.weight
