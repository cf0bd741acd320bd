"""Linear discriminant analysis (LDA) on frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field

from trainables.closed_form.fitting import Fit, FromSums, with_head
from trainables.closed_form.gaussian import (
    SharedGaussian,
    discriminant,
    leave_out_discriminant,
    shared_gaussian,
    sums_of,
)
from trainables.closed_form.groups import judging
from trainables.closed_form.out_of_fold import (
    out_of_fold_scale,
    prior_offset,
    scaled_logits,
)
from trainables.closed_form.statistics import MOST_KEPT, Samples, Statistics
from trainables.methods.heads import Head
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

SHRINKAGES = (1e-4, 1e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
UNJUDGED = 0.1  # where no two classes have enough images to choose

LOOKED_UP = {"heads": ("linear",)}


class LDA(FromSums, Rebalancer):
    """Linear discriminant analysis: class means under one shrunk covariance, without training.

    ``logits_c = s (mu_c^T A x - (mu_c^T A mu_c - tr(A S) / n_c) / 2) + prior log(n_c / N)`` with
    ``A^-1 = (1 - shrinkage) S + shrinkage tr(S)/D I``, S the covariance within classes. Classes are
    equally likely unless ``prior`` says otherwise, so frequent classes are not favored. The scale s
    maximizes the likelihood of out-of-fold answers, each class counting alike.

    Args:
        shrinkage: In (0, 1); ``null`` chooses among eight values by the likelihood of exact
            leave-one-out answers, averaged over the classes of at least 3 images.
        unbiased: Correct for the noise of class means, ``tr(A S) / n_c``, which makes rare classes
            look further away than they are; SLDA does not.
        prior: Factor of the log class frequency: 0 for balanced accuracy, 1 for images that come
            as often as in training.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with the head
        ``linear``, and the prior as ``logit_offset``.

    An absent class is never predicted: its offset is -65504. Computed in float64 from counts, class
    sums and one ``[D, D]`` matrix.

    Source:
        Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant
        Analysis", arXiv 1909.01520, eqs. (1) to (3), with shrinkage 1e-4 towards I; here towards
        the mean variance, which does not depend on the unit of the features. Ledoit and Wolf 2004,
        "A well-conditioned estimator for large-dimensional covariance matrices".

    Example:
        >>> from trainables.artifacts import Classifier
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, torch.ones(2), zeros[:1])
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
        >>> found = LDA()(classifier=trained, features=features, labels=torch.tensor([0, 0, 0, 1]))
        >>> logits = torch.tensor([[2.9], [3.1]]) @ found.state["weight"].T + found.state["bias"]
        >>> logits.argmax(1).tolist()  # the means are 1 and 5
        [0, 1]
    """

    shrinkage: Annotated[float, Field(gt=0, lt=1)] | None = None
    unbiased: bool = True
    prior: Annotated[float, Field(ge=0, le=1), Range(0.0, 1.0)] = 0.0

    @classmethod
    def fit_each(
        cls, methods: Sequence[LDA], *, classifier: Classifier, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit several settings; all share one decomposition of the scatter."""
        kept = sums_of(data, len(classifier.class_counts))
        return cls._fit_alike(methods, classifier, kept, data)

    @classmethod
    def _fit_alike(
        cls, methods: Sequence[LDA], classifier: Classifier, kept: Statistics, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit several settings, given the sums over the samples."""
        model = shared_gaussian(kept)
        for unbiased in sorted({method.unbiased for method in methods}):
            own = {n: method for n, method in enumerate(methods) if method.unbiased == unbiased}
            levels = {method.shrinkage for method in own.values()}
            judged = bool(judging(data, len(model.counts)).any())
            offered = () if None not in levels else SHRINKAGES if judged else (UNJUDGED,)
            every = sorted({level for level in levels if level is not None} | set(offered))
            best: _Candidate | None = None
            for found in _candidates(data, model, every, unbiased=unbiased):
                for place, method in own.items():
                    if method.shrinkage == found.shrinkage:
                        yield place, method.fitted(classifier, model, found)
                if found.shrinkage in offered and (best is None or found.surprise < best.surprise):
                    best = found
            for place, method in own.items():
                if best is not None and method.shrinkage is None:
                    yield place, method.fitted(classifier, model, best)

    def gather(self, data: Samples, num_classes: int) -> Statistics:
        """Return the sums over samples that the classifier is fitted to."""
        return sums_of(data, num_classes)

    def fit_sums(self, kept: Statistics, *, classifier: Classifier, data: Samples) -> Fit:
        """Return classifier and out-of-fold logits, given the sums over the samples."""
        ((_, fit),) = self._fit_alike([self], classifier, kept, data)
        return fit

    def fitted(self, classifier: Classifier, model: SharedGaussian, found: _Candidate) -> Fit:
        """Return the fit of a candidate, with this prior."""
        offset = prior_offset(model.counts, self.prior)
        weight, bias = discriminant(model, shrinkage=found.shrinkage, unbiased=self.unbiased)
        state = {"weight": found.scale * weight, "bias": found.scale * bias}
        return Fit(
            with_head(classifier, Head.parse("linear"), state, offset),
            scaled_logits(found.answers, found.scale, offset),
        )


class _Candidate(NamedTuple):
    """A shrinkage with its out-of-fold answers ``[N, C]``, their scale and their surprise."""

    shrinkage: float
    answers: torch.Tensor
    scale: float
    surprise: float


def _candidates(
    data: Samples, model: SharedGaussian, shrinkages: Sequence[float], *, unbiased: bool
) -> Iterator[_Candidate]:
    """Yield each shrinkage with its answers; those that fit into memory are computed together."""
    at_once = max(1, MOST_KEPT // max(len(data.labels) * len(model.counts), 1))
    for start in range(0, len(shrinkages), at_once):
        some = shrinkages[start : start + at_once]
        each = leave_out_discriminant(data, model, shrinkages=some, unbiased=unbiased)
        for shrinkage, answers in zip(some, each, strict=True):
            yield _Candidate(shrinkage, answers, *out_of_fold_scale(answers, data))
