"""A ridge regression as a classifier: its regularizer and its scale from left-out answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainables.artifacts import Classifier
from trainables.closed_form.groups import judging
from trainables.closed_form.projection import draw_projection
from trainables.closed_form.ridge import (
    BALANCES,
    Balance,
    Spectrum,
    class_weights,
    kept_coordinates,
    leave_out,
    solve,
    solve_each,
    spectrum,
)
from trainables.closed_form.ridge_choice import LeftOutErrors
from trainables.closed_form.scale import NEVER, fit_scale
from trainables.closed_form.statistics import BLOCK, MOST_KEPT, Samples, Statistics, no_samples
from trainables.functional.class_weights import class_prior, filled_counts
from trainables.methods.heads import Head
from trainables.methods.method import Choice, Range

LOOKED_UP = {"heads": ("linear", "random_features")}

GRID: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-12, 5))
UNJUDGED = 0.1  # the regularizer where no two classes have enough groups


class RidgeSettings(BaseModel):
    """Settings of a ridge regression on frozen features.

    Args:
        width: Number of random features ``relu(x P)`` (RanPAC); 0 takes the features themselves.
        seed: Seed of P.
        balance: ``none``; ``inverse_frequency``, samples weighted by ``1 / n_c`` (AIR);
            ``effective_number``, by ``(1 - beta) / (1 - beta^n_c)``; ``logit_adjusted``, targets
            lowered by the log class prior, ``t_ic = [c = y_i] - tau log(pi_c) / s`` with s the
            scale: as the intercept is not penalized, this is an offset of ``-tau log(pi_c)``.
        beta: Of ``effective_number``, in [0, 1).
        tau: Of ``logit_adjusted``, >= 0.
        intercept: Fit an intercept that is not penalized; RanPAC and AIR have none.
        regularizer: Penalty on the weights, > 0, in units of the mean eigenvalue of the weighted
            Gram matrix; ``null`` chooses it.
    """

    width: Annotated[int, Field(ge=0, le=10000), Choice((0, 500, 1000, 2000))] = 0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    balance: Annotated[Balance, Choice(BALANCES)] = "inverse_frequency"
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    tau: Annotated[float, Field(ge=0), Range(0.25, 2.0)] = 1.0
    intercept: bool = True
    regularizer: Annotated[float, Field(gt=0)] | None = None

    def projection(self, features: Tensor) -> Tensor | None:
        """Return P for features ``[N, D]``, on their device; ``None`` without random features."""
        if not self.width:
            return None
        return draw_projection(features.shape[1], self.width, seed=self.seed).to(features.device)

    def gather(self, data: Samples, num_classes: int) -> Statistics:
        """Return the statistics of samples, with the class weights of their counts."""
        counts = torch.bincount(data.labels, data.weights, minlength=num_classes).double()
        kept = no_samples(self.class_weights(counts), width=data.width)
        kept.add(data)
        return kept

    def class_weights(self, counts: Tensor) -> Tensor:
        """Return the weight of each class in the fit, float64 ``[C]``."""
        return class_weights(counts, self.balance, beta=self.beta)

    def inputs(self) -> tuple[int, int]:
        """Return what the inputs of the regression depend on."""
        return self.width, self.seed if self.width else 0

    def shared(self) -> tuple[object, ...]:
        """Return what, beside `inputs`, the statistics and their spectrum depend on."""
        weights = "none" if self.balance == "logit_adjusted" else self.balance
        beta = self.beta if weights == "effective_number" else None
        return weights, beta, self.intercept

    def head(self) -> Head:
        """Return the head of the classifier: linear, on random features or on the features."""
        if not self.width:
            return Head.parse("linear")
        return Head.parse({"random_features": {"width": self.width, "seed": self.seed}})

    def offset(self, counts: Tensor) -> Tensor:
        """Return the logit offset ``[C]``, float64; an absent class is never predicted."""
        offset = torch.zeros_like(counts.double())
        if self.balance == "logit_adjusted":
            offset = -self.tau * class_prior(filled_counts(counts)).log()
        return torch.where(counts > 0, offset, NEVER)


class RidgeFit(NamedTuple):
    """A fitted ridge classifier; its logits are ``scale * (W x + b)`` plus the offset.

    Args:
        weight: W ``[C, M]``, float64.
        intercept: b ``[C]``.
        scale: s, fitted to the likelihood of left-out answers.
        regularizer: In units of the mean eigenvalue.
        judged: Number of classes that the choice of the regularizer counts.
        answers: Answer ``[N, C]`` to each sample by the fit without its group, before the scale.
    """

    weight: Tensor
    intercept: Tensor
    scale: float
    regularizer: float
    judged: int
    answers: Tensor

    def figures(self, stage: str, counts: Tensor) -> dict[str, float]:
        """Return what was chosen as metrics of a stage, given the weight of each class ``[C]``."""
        return {
            f"{stage}/ridge/regularizer": self.regularizer,
            f"{stage}/ridge/scale": self.scale,
            f"{stage}/ridge/classes_not_judged": float((counts > 0).sum()) - self.judged,
        }


def fit_ridge(settings: RidgeSettings, kept: Statistics, data: Samples) -> RidgeFit:
    """Fit a ridge classifier.

    The regularizer has the smallest squared error of left-out answers, the scale their largest
    likelihood under the weights of the fit; both count classes of at least 3 groups.

    Args:
        settings: The settings.
        kept: Statistics of ``data``.
        data: All samples, of positive total weight.
    """
    parts = spectrum(kept, intercept=settings.intercept)
    return next(fit_spectrum(parts, kept, data, [settings.regularizer]))


def fit_spectrum(
    parts: Spectrum,
    kept: Statistics,
    data: Samples,
    regularizers: Sequence[float | None],
    *,
    coordinates: Tensor | None = None,
) -> Iterator[RidgeFit]:
    """Yield the fit of each regularizer as `fit_ridge` does, to statistics decomposed already.

    Args:
        parts: Spectrum of ``kept``.
        kept: Statistics of ``data``.
        data: All samples, of positive total weight.
        regularizers: In units of the mean eigenvalue; ``None`` chooses one.
        coordinates: Of the samples ``[N, M]`` in the basis of ``parts``, if they are there.
    """
    if coordinates is None:
        coordinates = kept_coordinates(parts, data)
    weights = data.weights * kept.class_weights[data.labels]
    judges = judging(data, len(kept.counts))
    chosen, known = list(regularizers), dict[float, Tensor | None]()
    if None in chosen:
        best = choose_regularizer(parts, data, weights, judges, coordinates=coordinates)
        chosen = [best.multiple if level is None else level for level in chosen]
        known = {best.multiple: best.answers}
    judged = len(data.labels[judges].unique())
    at_once = max(1, MOST_KEPT // max(len(data.labels) * len(kept.counts), 1))
    for start in range(0, len(chosen), at_once):
        levels = [level for level in chosen[start : start + at_once] if level is not None]
        penalties = [level * parts.unit for level in levels]
        solved = solve_each(parts, penalties)
        told = known.get(levels[0]) if len(levels) == 1 else None
        if told is not None:
            left_out = told[None]
        else:
            left_out = left_out_answers(parts, data, weights, penalties, coordinates=coordinates)
        for level, weight, intercept, answers in zip(levels, *solved, left_out, strict=True):
            if judged:
                scale = fit_scale(answers, data.labels, weights * judges)
            else:
                scale = fit_scale(_own_answers(weight, intercept, data), data.labels, weights)
            yield RidgeFit(weight, intercept, scale, level, judged, answers)


def _own_answers(weight: Tensor, intercept: Tensor, data: Samples) -> Tensor:
    """Return the answers ``[N, C]`` to the samples of the fit itself."""
    return torch.cat([data.inputs(block) @ weight.T + intercept for block in data.blocks()])


class Chosen(NamedTuple):
    """A regularizer in units of the mean eigenvalue, and the left-out answers ``[N, C]``, or none.

    They are none where nothing was compared, or the answers of all regularizers are too many.
    """

    multiple: float
    answers: Tensor | None


def few_asked(data: Samples, num_classes: int) -> bool:
    """Say whether leverages of few regularizers suffice; see `LeftOutErrors`."""
    alone = len(data.groups.unique()) == len(data.groups)
    return alone and len(GRID) * len(data.labels) * num_classes <= BLOCK


def choose_regularizer(
    parts: Spectrum,
    data: Samples,
    weights: Tensor,
    judges: Tensor,
    *,
    coordinates: Tensor | None = None,
) -> Chosen:
    """Return the regularizer of the grid with the smallest squared error, averaged by class."""
    if not bool(judges.any()):
        return Chosen(UNJUDGED, None)
    share = judges / torch.bincount(data.labels[judges])[data.labels * judges].double()
    penalties = [multiple * parts.unit for multiple in GRID]
    if coordinates is not None and few_asked(data, len(parts.target)):
        left_out = LeftOutErrors(parts, data, weights, share, penalties, coordinates=coordinates)
        place = left_out.smallest()
        return Chosen(GRID[place], left_out.answers(place))
    errors = torch.zeros(len(GRID), dtype=torch.float64, device=weights.device)
    shape = len(GRID), len(weights), len(parts.target)
    every = weights.new_empty(shape) if math.prod(shape) <= BLOCK else None
    for rows, answers in leave_out(parts, data, weights, penalties, coordinates=coordinates):
        targets = torch.nn.functional.one_hot(data.labels[rows], answers.shape[2])
        errors += (answers - targets).square().sum(dim=2) @ share[rows]
        if every is not None:
            every[:, rows] = answers
    place = int(errors.argmin())
    return Chosen(GRID[place], None if every is None else every[place])


def regularizer_of_validation(parts: Spectrum, validation: Samples) -> float:
    """Return the regularizer of the grid with the smallest squared error on validation images.

    The error is averaged by class, over the classes that have validation images.
    """
    share = 1.0 / torch.bincount(validation.labels).double()[validation.labels]
    penalties = [multiple * parts.unit for multiple in GRID]
    errors = torch.zeros(len(GRID), dtype=torch.float64, device=share.device)
    solutions = parts.solutions(penalties)
    for block in validation.blocks(len(GRID) * len(parts.target)):
        answers = parts.answers(parts.coordinates(validation.inputs(block)), solutions)
        targets = torch.nn.functional.one_hot(validation.labels[block], len(parts.target))
        errors += (answers - targets).square().sum(dim=2) @ share[block]
    return GRID[int(errors.argmin())]


def left_out_answers(
    parts: Spectrum,
    data: Samples,
    weights: Tensor,
    penalties: Sequence[float],
    *,
    coordinates: Tensor | None = None,
) -> Tensor:
    """Return the answers ``[L, N, C]`` to each sample by fits without its group; see `leave_out`.

    Where all weight is in one group, no fit lacks it, and the answers are those of the fit itself.
    """
    answers = weights.new_zeros(len(penalties), len(weights), len(parts.target))
    if len(data.groups[data.weights > 0].unique()) < 2:
        own = [_own_answers(*solve(parts, penalty), data) for penalty in penalties]
        return torch.stack(own)
    for rows, block in leave_out(parts, data, weights, penalties, coordinates=coordinates):
        answers[:, rows] = block
    return answers


def with_ridge(
    classifier: Classifier, settings: RidgeSettings, fitted: RidgeFit, counts: Tensor
) -> Classifier:
    """Return the classifier with the head of a fitted ridge regression.

    Args:
        classifier: The classifier before.
        settings: Those of the fit.
        fitted: The fit.
        counts: Weight of the samples of each class ``[C]``.
    """
    name = "linear." if settings.width else ""
    state = {
        f"{name}weight": (fitted.scale * fitted.weight).float(),
        f"{name}bias": (fitted.scale * fitted.intercept).float(),
    }
    offset = settings.offset(counts).to(classifier.logit_offset)
    return classifier._replace(head=settings.head(), state=state, logit_offset=offset)
