"""One Gaussian per class, with shrunk and normalized covariances (FeCAM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

import torch
from pydantic import Field, model_validator

from trainables.closed_form.class_gaussians import (
    ClassGaussians,
    class_gaussians,
    head_state,
    leave_out_answers,
)
from trainables.closed_form.fitting import ClosedForm, Fit, with_head
from trainables.closed_form.mahalanobis import Shrinkage
from trainables.closed_form.out_of_fold import out_of_fold_scale, prior_offset, scaled_logits
from trainables.closed_form.statistics import Samples
from trainables.methods.heads import Head
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

DIAGONALS = (1.0, 3.0, 10.0, 30.0, 100.0)

LOOKED_UP = {"heads": ("mahalanobis",)}


class FeCAM(ClosedForm, Rebalancer):
    """Mahalanobis distance under a covariance per class, without training.

    ``logits_c = -s v^T R_c^-1 v`` with ``v = t(x) - t(mu_c)``, ``t(x) = u / |u|``, ``u = sign(x)
    |x|^power``, mu_c the mean of the class, and R_c the covariance of u in the class, shrunk twice
    and divided by its standard deviations. Shrinking once adds ``diagonal`` times the mean variance
    to the diagonal and ``off_diagonal`` times the mean covariance to all other entries. The scale s
    maximizes the likelihood of exact out-of-fold answers, each class counting alike.

    Args:
        power: Exponent of Tukey's transform, in (0, 1]; 1 leaves features as they are. The paper's
            0.5 is for features that are never negative: at zero it is steep, which harms others.
        diagonal: ``alpha1``, > 0, 1 in the paper; ``null`` chooses among 1, 3, 10, 30 and 100 by
            the likelihood of out-of-fold answers. With few images a class needs a large one.
        off_diagonal: ``alpha2``, at most ``diagonal``, so that R_c has an inverse; 1 in the paper.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with the head
        ``mahalanobis``, with min(n_c, D) directions for each class.

    A class with one image has R_c = I; its shrunk covariance is undefined in the reference code.
    An absent class is never predicted: its offset is -65504.

    Raises:
        ValueError: ``off_diagonal`` is above ``diagonal``.

    Source:
        Goswami et al. 2023, "FeCAM: Exploiting the Heterogeneity of Class Distributions in
        Exemplar-Free Continual Learning", arXiv 2309.14062, eqs. (4) to (9);
        dipamgoswami/FeCAM models/base.py and utils/maha_utils.py, with Tukey's transform also for
        negative features, which give NaN there. The scale is this project's.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.features.predict import predict_logits
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 2, {}, zeros, torch.ones(2), zeros)
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0]])
        >>> found = FeCAM()(
        ...     classifier=trained, features=features, labels=torch.tensor([0, 0, 1, 1])
        ... )
        >>> predict_logits(found, torch.tensor([[2.0, 1.0], [1.0, 2.0]])).argmax(1).tolist()
        [0, 1]
    """

    power: Annotated[float, Field(gt=0, le=1), Range(0.3, 1.0)] = 1.0
    diagonal: Annotated[float, Field(gt=0)] | None = None
    off_diagonal: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _has_an_inverse(self) -> Self:
        """Require ``off_diagonal <= diagonal``."""
        most = DIAGONALS[0] if self.diagonal is None else self.diagonal
        if self.off_diagonal > most:
            raise ValueError(
                f"rebalancers/fecam.off_diagonal: must be at most diagonal ({most}); "
                f"received {self.off_diagonal}"
            )
        return self

    @classmethod
    def fit_each(
        cls, methods: Sequence[FeCAM], *, classifier: Classifier, data: Samples
    ) -> Iterator[tuple[int, Fit]]:
        """Fit several settings; those of one power share the decomposed scatters."""
        fitted: dict[float, ClassGaussians] = {}
        for place, method in enumerate(methods):
            power = method.power
            if power not in fitted:
                fitted = {power: class_gaussians(data, len(classifier.class_counts), power=power)}
            model = fitted[power]
            shrinkage, answers, scale, _ = method.chosen(data, model)
            offset = prior_offset(model.counts, 0.0)
            state = head_state(model, shrinkage) | {"scale": torch.tensor(scale).to(answers)}
            sizes = {"metrics": len(state["precision"]), "directions": len(state["basis"])}
            head = Head.parse({"mahalanobis": {**sizes, "power": power}})
            fit = Fit(
                with_head(classifier, head, state, offset), scaled_logits(answers, scale, offset)
            )
            yield place, fit

    def chosen(self, data: Samples, model: ClassGaussians) -> _Candidate:
        """Return the shrinkage under which out-of-fold answers are likeliest, or the set one."""
        best = None
        for diagonal in DIAGONALS if self.diagonal is None else (self.diagonal,):
            shrinkage = Shrinkage(diagonal, self.off_diagonal)
            answers = leave_out_answers(model, data.groups, shrinkage)
            other = _Candidate(shrinkage, answers, *out_of_fold_scale(answers, data))
            best = min(best or other, other, key=lambda candidate: candidate.surprise)
        assert best is not None
        return best


class _Candidate(NamedTuple):
    """A shrinkage with its out-of-fold answers ``[N, C]``, their scale and their surprise."""

    shrinkage: Shrinkage
    answers: torch.Tensor
    scale: float
    surprise: float
