"""Base class of the rebalancers that are computed from features, with their answers out of fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from trainables.artifacts import Classifier
from trainables.closed_form.statistics import Samples, Statistics, samples


class Fit(NamedTuple):
    """A fitted classifier, and what it answers about the images of the fit.

    Attributes:
        classifier: The classifier.
        logits: Logits ``[N, C]`` of each sample by the fit without its group, float64. Chosen
            settings, scale and class frequencies are those of all samples. ``None``: there is no
            closed form.
    """

    classifier: Classifier
    logits: Tensor | None
    figures: Mapping[str, float] = MappingProxyType({})


class ClosedForm(BaseModel):
    """A rebalancer that is computed from features alone: the given classifier has no effect.

    A subclass has ``fit_each(methods, *, classifier, data) -> Iterator[tuple[int, Fit]]``, a class
    method that fits several settings to the same `Samples`, computes once what they share, and
    yields each fit with the index of its setting, in any order.
    """

    from_features: ClassVar[bool] = True
    fit_each: ClassVar[Callable[..., Iterator[tuple[int, Fit]]]]

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: Tensor,
        labels: Tensor,
        groups: Tensor | None = None,
    ) -> Classifier:
        """Return the classifier fitted to features ``[N, D]`` with labels and groups ``[N]``."""
        fit = self.fit(classifier=classifier, features=features, labels=labels, groups=groups)
        return fit.classifier

    def fit(
        self,
        *,
        classifier: Classifier,
        features: Tensor,
        labels: Tensor,
        groups: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Fit:
        """Return classifier and out-of-fold logits.

        By default each sample is its own group and has weight 1; other weights are for `lda` alone.
        """
        data: Samples = samples(features, labels, groups=groups, weights=weights)
        ((_, fit),) = type(self).fit_each([self], classifier=classifier, data=data)
        return fit


class FromSums(ClosedForm):
    """A rebalancer that is fitted to sums over samples: classes can be taken away from it exactly.

    A subclass has ``gather(data, num_classes) -> Statistics`` and ``fit_sums(kept, *, classifier,
    data) -> Fit``, where ``kept`` are the sums over ``data``. Both get samples as `prepared` leaves
    them.
    """

    gather: ClassVar[Callable[..., Statistics]]
    fit_sums: ClassVar[Callable[..., Fit]]

    def of_all(self, data: Samples, kept: Statistics) -> Any:
        """Return what `fit_without` shares among classes that leave; by default nothing."""
        return None

    def fit_without(
        self,
        of_all: Any,
        kept: Statistics,
        *,
        leaving: Tensor,
        staying: Tensor,
        classifier: Classifier,
        data: Samples,
    ) -> Fit:
        """Return the fit to what stays when all samples of some classes leave.

        Args:
            of_all: What `of_all` returned for all samples.
            kept: Sums over what stays.
            leaving: Rows of the samples that leave, among all ``[K]``.
            staying: Rows of the others ``[N]``.
            classifier: The classifier before, for the classes that stay.
            data: The samples that stay.
        """
        return self.fit_sums(kept, classifier=classifier, data=data)

    def prepared(self, data: Samples) -> Samples:
        """Return samples with the projection that the sums are over; by default as they are."""
        return data


def with_head(
    classifier: Classifier, head: Any, state: dict[str, Tensor], offset: Tensor
) -> Classifier:
    """Return the classifier with another head; its numbers are stored as float32."""
    stored = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return classifier._replace(
        head=head, state=stored, logit_offset=offset.to(classifier.logit_offset)
    )
