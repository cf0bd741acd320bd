"""Class-weighted ridge regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from trainables.closed_form.fitting import Fit, FromSums
from trainables.closed_form.ridge import Spectrum, spectrum
from trainables.closed_form.ridge_choice import USUALLY_ASKED
from trainables.closed_form.ridge_classifier import (
    GRID,
    RidgeSettings,
    few_asked,
    fit_spectrum,
    regularizer_of_validation,
    with_ridge,
)
from trainables.closed_form.ridge_without import RidgeOfAll
from trainables.closed_form.statistics import Samples, Statistics, samples
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

LOOKED_UP = {"heads": ("linear", "random_features")}


class Ridge(RidgeSettings, FromSums, Rebalancer):
    """Ridge regression on frozen features or random features, computed in closed form.

    Minimizes ``sum_i w_i |t_i - W x_i - b|^2 + r |W|^2`` over one-hot targets in float64. The
    regularizer r has the smallest squared error on left-out answers: exact leave-one-out, averaged
    by class over classes of at least 3 images. The logits are ``s (W x + b)``, with s the scale of
    the largest likelihood of these answers, so that their softmax is a probability. No random
    numbers but those of the random features.

    Args:
        width: Number of random features ``relu(x P)``; 0 takes the features themselves.
        seed: Seed of P.
        balance: ``none``; ``inverse_frequency``, samples weighted by ``1 / n_c`` (AIR);
            ``effective_number``, by ``(1 - beta) / (1 - beta^n_c)``; ``logit_adjusted``, targets
            lowered by the log class prior, which is a logit offset of ``-tau log(pi_c)``.
        beta: Of ``effective_number``, in [0, 1).
        tau: Of ``logit_adjusted``, >= 0.
        intercept: Fit an intercept that is not penalized; RanPAC and AIR have none.
        regularizer: r > 0 in units of the mean eigenvalue of the weighted Gram matrix; ``null``
            chooses it.
        chosen_by: ``leave_one_out``, or ``validation``: the smallest squared error on validation
            images, averaged by class.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64, validation_features [V, D] and
        validation_labels [V] int64 for ``validation``. Returns a linear head, or a head
        `random_features`.

    An absent class gets the logit offset -65504, so it is never predicted. Without two classes of
    at least 3 images the regularizer is 0.1, and the scale is fitted to the training images.

    Source:
        McDonnell et al. 2023, "RanPAC", arXiv 2307.02251 (random features, one-hot ridge); Fang et
        al. 2024, "AIR: Analytic Imbalance Rectifier for Continual Learning", arXiv 2408.10349
        (class weights); Zhuang et al. 2022, "ACIL", arXiv 2205.14922. Intercept, leave-one-out and
        scale are this project's.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> zeros, counts = torch.zeros(2), torch.tensor([4, 4])
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, counts, zeros[:1])
        >>> features = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0])[:, None]
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> state = Ridge()(classifier=trained, features=features, labels=labels).state
        >>> logits = features[[1, 3, 4, 6]] @ state["weight"].T + state["bias"]
        >>> logits.argmax(1).tolist()
        [0, 0, 1, 1]
    """

    chosen_by: Literal["leave_one_out", "validation"] = "leave_one_out"

    @property
    def needs_validation(self) -> bool:
        """Say whether validation images choose the regularizer."""
        return self.regularizer is None and self.chosen_by == "validation"

    @classmethod
    def fit_each(
        cls, methods: Sequence[Ridge], *, classifier: Classifier, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit several settings.

        Those of one width share its random features, those of equal weights, too, a decomposition.
        """
        _refuse_validation(methods)
        for same_inputs in _alike(range(len(methods)), lambda place: methods[place].inputs()):
            own = methods[same_inputs[0]].prepared(data).computed()
            for places in _alike(same_inputs, lambda place: methods[place].shared()):
                kept = methods[places[0]].gather(own, len(classifier.class_counts))
                alike = [methods[place] for place in places]
                for number, fit in cls._fit_alike(alike, classifier, kept, own):
                    yield places[number], fit

    @classmethod
    def _fit_alike(
        cls, methods: Sequence[Ridge], classifier: Classifier, kept: Statistics, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit settings of equal inputs and weights, given the sums over the samples."""
        parts = spectrum(kept, intercept=methods[0].intercept)
        return cls._fit_parts(methods, classifier, kept, data, parts)

    @classmethod
    def _fit_parts(
        cls,
        methods: Sequence[Ridge],
        classifier: Classifier,
        kept: Statistics,
        data: Samples,
        parts: Spectrum,
        coordinates: torch.Tensor | None = None,
    ) -> Iterator[tuple[int, Fit]]:
        """Fit settings of equal inputs and weights, given the decomposition of the sums."""
        by_level = list(_alike(range(len(methods)), lambda place: methods[place].regularizer))
        levels = [methods[equal[0]].regularizer for equal in by_level]
        fits = fit_spectrum(parts, kept, data, levels, coordinates=coordinates)
        for fitted, equal in zip(fits, by_level, strict=True):
            for place in equal:
                offset = methods[place].offset(kept.counts)
                logits = torch.add(offset, fitted.answers, alpha=fitted.scale)
                result = with_ridge(classifier, methods[place], fitted, kept.counts)
                figures = fitted.figures("rebalance", kept.counts)
                yield place, Fit(result, logits, figures)

    def prepared(self, data: Samples) -> Samples:
        """Return the samples with the matrix of the random features."""
        return data._replace(projection=self.projection(data.features))

    def fit_sums(self, kept: Statistics, *, classifier: Classifier, data: Samples) -> Fit:
        """Return classifier and out-of-fold logits, given the sums over `prepared` samples."""
        _refuse_validation([self])
        ((_, fit),) = self._fit_alike([self], classifier, kept, data)
        return fit

    def of_all(self, data: Samples, kept: Statistics) -> RidgeOfAll:
        """Return the decomposition of all samples, which is made when it is first asked for."""
        return RidgeOfAll(data, kept, intercept=self.intercept)

    def fit_without(
        self,
        of_all: RidgeOfAll,
        kept: Statistics,
        *,
        leaving: torch.Tensor,
        staying: torch.Tensor,
        classifier: Classifier,
        data: Samples,
    ) -> Fit:
        """Return the fit to what stays: the decomposition of all serves while few leave."""
        _refuse_validation([self])
        multiples = GRID if self.regularizer is None else (self.regularizer,)
        left, levels = None, len(multiples)
        if self.regularizer is None and few_asked(data, len(kept.counts)):
            levels = USUALLY_ASKED
        if of_all.pays(len(leaving), levels):
            left = of_all.without(leaving, staying, kept, multiples)
        if left is None:
            return self.fit_sums(kept, classifier=classifier, data=data)
        ((_, fit),) = self._fit_parts([self], classifier, kept, data, *left)
        return fit

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        groups: torch.Tensor | None = None,
        validation_features: torch.Tensor | None = None,
        validation_labels: torch.Tensor | None = None,
        report: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> Classifier:
        if not len(labels):
            return classifier
        data = self.prepared(samples(features, labels, groups=groups)).computed()
        kept = self.gather(data, len(classifier.class_counts))
        parts, level = spectrum(kept, intercept=self.intercept), self.regularizer
        if self.needs_validation:
            if (
                validation_features is None
                or validation_labels is None
                or not len(validation_labels)
            ):
                raise ValueError(
                    "rebalancers/ridge.chosen_by: validation needs validation images, but there "
                    "are none; raise data.validation_per_class, or set leave_one_out"
                )
            judges = self.prepared(samples(validation_features, validation_labels))
            level = regularizer_of_validation(parts, judges)
        fitted = next(fit_spectrum(parts, kept, data, [level]))
        if report is not None:
            report(fitted.figures("rebalance", kept.counts), 0)
        return with_ridge(classifier, self, fitted, kept.counts)


def _refuse_validation(methods: Sequence[Ridge]) -> None:
    """Refuse a regularizer by validation images, because answers out of fold have none."""
    if any(method.needs_validation for method in methods):
        raise ValueError(
            "rebalancers/ridge.chosen_by: must be leave_one_out where answers are out of fold; "
            "received validation"
        )


def _alike(places: Iterable[int], key: Callable[[int], Hashable]) -> Iterable[list[int]]:
    """Return the places of each key, in the order in which keys are met."""
    found: dict[Hashable, list[int]] = {}
    for place in places:
        found.setdefault(key(place), []).append(place)
    return found.values()
