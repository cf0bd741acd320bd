"""Which regularizer has the smallest left-out error, without all leverages of all regularizers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.closed_form.ridge import BLOCK, Spectrum
from trainables.closed_form.statistics import Samples

MARGIN = 1e-9  # relative; a bound that is above the smallest error by less may be rounding
USUALLY_ASKED = 8  # of the 17 regularizers of a grid, and what the others cost


class LeftOutErrors:
    """Squared left-out errors of L regularizers, averaged by class, where each sample is a group.

    The error of a regularizer is ``sum_i s_i |R_i|^2 / (1 - h_i)^2``, with the residuals R of the
    full fit, cheap for all regularizers at once, and the leverages h, which are not. As h only
    falls where the regularizer rises, the leverages of a larger one, or none, bound the error from
    below: whatever is bounded above the smallest error so far need not be asked.

    Args:
        parts: Spectrum of the statistics of all samples.
        data: All samples.
        weights: Weight of each sample in the fit ``[N]``.
        share: s ``[N]``.
        penalties: L regularizers > 0, ascending.
        coordinates: Of all samples ``[N, M]``.
    """

    def __init__(
        self,
        parts: Spectrum,
        data: Samples,
        weights: Tensor,
        share: Tensor,
        penalties: Sequence[float],
        *,
        coordinates: Tensor,
    ) -> None:
        self.parts, self.weights, self.share = parts, weights, share
        self.penalties = list(penalties)
        self.changes = parts.changes(penalties)
        solutions = parts.solutions(penalties, self.changes)
        self.targets = torch.nn.functional.one_hot(data.labels, len(parts.target)).double()
        rows = max(1, BLOCK // coordinates.shape[1])
        self.blocks = coordinates.split(rows)
        answers = [parts.answers(block, solutions) for block in self.blocks]
        self.residuals = self.targets - torch.cat(answers, dim=1)  # [L, N, C]
        self.squared = self.residuals.square().sum(dim=2)
        self.lengths = torch.cat([parts.lengths(block, penalties) for block in self.blocks])
        self.leverages: dict[int, Tensor] = {}

    def smallest(self) -> int:
        """Return the place of the regularizer with the smallest error, of equal ones the first."""
        found: dict[int, float] = {}
        near = self._guess()
        while True:
            least = min(found.values(), default=math.inf)
            asked = [
                place
                for place in range(len(self.penalties))
                if place not in found and self._bound(place) <= least * (1 + MARGIN)
            ]
            if not asked:
                return min(sorted(found), key=lambda place: found[place])
            # of two that are as near, the larger regularizer, which bounds more of the others
            place = min(asked, key=lambda place: (abs(place - near), -place))
            self.leverages[place] = self._leverages(place)
            found[place] = self._error(place, self.leverages[place])
            near = min(sorted(found), key=lambda place: found[place])

    def answers(self, place: int) -> Tensor:
        """Return the left-out answers ``[N, C]`` of a regularizer that was asked."""
        left = 1 - self.leverages[place][:, None]
        return self.targets - self.residuals[place] / left

    def _guess(self) -> int:
        """Return the place that generalized cross-validation finds best, with mean leverages."""
        values, number = self.parts.values, len(self.weights)
        mean = [float((values / (values + r)).sum()) / number for r in self.penalties]
        errors = (self.squared @ self.share).tolist()
        judged = [e / max(1 - h, 1e-3) ** 2 for e, h in zip(errors, mean, strict=True)]
        return judged.index(min(judged))

    def _error(self, place: int, leverages: Tensor | float) -> float:
        left = 1 - leverages
        return float((self.share * self.squared[place] / left**2).sum())

    def _bound(self, place: int) -> float:
        """Return what the error is at least."""
        larger = [other for other in self.leverages if other > place]
        return self._error(place, self.leverages[min(larger)] if larger else 0.0)

    def _leverages(self, place: int) -> Tensor:
        """Return h ``[N]`` under one regularizer."""
        found = self.lengths[:, place] + self.parts.constant
        for change in self.changes[place : place + 1]:  # none where nothing was lost
            along = [(change @ block.T).square().sum(dim=0) for block in self.blocks]
            found = found + torch.cat(along)
        return self.weights * found
