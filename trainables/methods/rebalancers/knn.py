"""Nearest neighbors among the training images (kNN)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.closed_form.fitting import ClosedForm, Fit, with_head
from trainables.closed_form.neighbors import leave_out_neighbors
from trainables.closed_form.out_of_fold import out_of_fold_scale, prior_offset, scaled_logits
from trainables.closed_form.statistics import Samples
from trainables.functional.class_weights import full_precision
from trainables.functional.l2_normalize import l2_normalize
from trainables.methods.heads import Head
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

LOOKED_UP = {"heads": ("nearest_neighbors",)}


class KNN(ClosedForm, Rebalancer):
    """Votes of the k nearest training images by cosine similarity, without training; a baseline.

    ``logits_c = s log(e^(-2/T) + sum_i e^((cos_i - 1)/T)) - tau log(n_c / N)`` over those of the k
    nearest images that are of class c. The scale s maximizes the likelihood of the answers to
    training images by all others.

    Args:
        k: Number of neighbors, >= 1, cut to the number of images.
        temperature: T of the votes, > 0.
        tau: Strength of the adjustment for class frequency, >= 0; 0 for none.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with the head
        ``nearest_neighbors``, which holds all features, and the adjustment as ``logit_offset``.

    An absent class is never predicted: its offset is -65504.

    Source:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        arXiv 1805.01978, section 3.4 (T = 0.07, k = 200); k = 20: Caron et al. 2021, "Emerging
        Properties in Self-Supervised Vision Transformers", arXiv 2104.14294. Scale and tau are this
        project's.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.features.predict import predict_logits
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 2, {}, zeros, torch.ones(2), zeros)
        >>> found = KNN()(classifier=trained, features=torch.eye(2), labels=torch.arange(2))
        >>> predict_logits(found, torch.tensor([[2.0, 1.0], [1.0, 2.0]])).argmax(1).tolist()
        [0, 1]
    """

    k: Annotated[int, Field(ge=1), Range(1, 100, log=True)] = 20
    temperature: Annotated[float, Field(gt=0, le=10), Range(0.02, 0.5, log=True)] = 0.07
    tau: Annotated[float, Field(ge=0), Range(0.0, 1.5)] = 1.0

    @classmethod
    def fit_each(
        cls, methods: Sequence[KNN], *, classifier: Classifier, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit several settings, one after the other."""
        counts = torch.bincount(data.labels, minlength=len(classifier.class_counts))
        stored = _one_of_each_class(data, counts)
        for place, method in enumerate(methods):
            answers = leave_out_neighbors(
                data, num_classes=len(counts), k=method.k, temperature=method.temperature
            )
            scale = out_of_fold_scale(answers, data, balanced=False).scale
            offset = prior_offset(counts, -method.tau)
            votes = {"k": method.k, "temperature": method.temperature, "size": len(stored["bank"])}
            head = Head.parse({"nearest_neighbors": votes})
            state = {**stored, "scale": torch.tensor(scale).to(answers)}
            fit = Fit(
                with_head(classifier, head, state, offset), scaled_logits(answers, scale, offset)
            )
            yield place, fit


def _one_of_each_class(data: Samples, counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the first image of each class as ``weight``, the others as ``bank``."""
    units = l2_normalize(full_precision(data.features))
    first = data.labels.argsort(stable=True)[(counts.cumsum(0) - counts)[counts > 0]]
    weight = units.new_zeros(len(counts), units.shape[1])
    weight[data.labels[first]] = units[first]
    others = torch.ones_like(data.labels, dtype=torch.bool)
    others[first] = False
    return {"weight": weight, "bank": units[others], "bank_labels": data.labels[others]}
