"""Remix."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.class_weights import begun, filled_counts
from trainables.methods.method import Choice, Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.mixing import Mix, draw_partners, draw_share, paired


class Remix(Mixer):
    """Mixup whose label goes to the rarer class of a pair if the other is much more frequent.

    Images as in mixup with share a; the label's share of sample i with partner j is 0 if
    ``n_i / n_j >= kappa`` and ``a < tau``, 1 if ``n_i / n_j <= 1 / kappa`` and ``1 - a < tau``,
    else a.

    Args:
        alpha: Of the Beta distribution, in (0, 100]. Default 1.
        kappa: How many times more frequent a class must be to lose its label, >= 1. Default 3.
        tau: Largest share of the image that may lose its label, in [0, 1]. Default 0.5.
        until: Fraction of training with mixing, in (0, 1]. Default 1.
        variant: ``paper`` (default) weighs each sample's loss by its own share; ``official`` is the
            long-tailed code that weighs both mean losses by the mean share, and so loses the
            pairing.

    Shapes:
        labels ``[B]`` int64, class_counts ``[C]``, progress in [0, 1] -> `trainables.mixing.Mix`,
        or ``None`` after ``until``.

    Source:
        Chou et al. 2020, "Remix: Rebalanced Mixup", arXiv:2007.03943, equation 8; reference code
        ntucllab/imbalanced-DL (``paper``) and zhangyongshun/BagofTricks-LT (``official``).

    Example:
        >>> mix = Remix().pair(  # 0.4 of a frequent image, the label of the rare one
        ...     torch.tensor([0, 1]), torch.tensor([1, 0]), 0.4, torch.tensor([90, 10])
        ... )
        >>> mix.labels.tolist(), mix.partner_labels.tolist()
        ([1, 1], [1, 0])
    """

    alpha: Annotated[Alpha, Range(0.1, 2.0, log=True)] = 1.0
    kappa: Annotated[float, Field(ge=1), Range(1.5, 10.0, log=True)] = 3.0
    tau: Annotated[float, Field(ge=0, le=1), Choice((0.3, 0.5, 0.7))] = 0.5
    until: Until = 1.0
    variant: Literal["paper", "official"] = "paper"

    def __call__(
        self,
        *,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        progress: float,
        generator: torch.Generator,
    ) -> Mix | None:
        if begun(self.until, progress):
            return None
        share = draw_share(self.alpha, generator)
        return self.pair(labels, draw_partners(labels, generator), share, class_counts)

    def label_shares(
        self, labels: torch.Tensor, partner: torch.Tensor, share: float, class_counts: torch.Tensor
    ) -> torch.Tensor:
        """Return each sample's own share of the label ``[B]`` float64: 0, 1 or ``share``."""
        counts = filled_counts(class_counts)[labels]
        ratio = counts / counts[partner]
        lost = (ratio >= self.kappa) & (share < self.tau)
        whole = (ratio <= 1 / self.kappa) & (1 - share < self.tau)
        shares = torch.full_like(ratio, share)
        return shares.masked_fill(whole, 1.0).masked_fill(lost, 0.0)  # with kappa 1 both may hold

    def pair(
        self, labels: torch.Tensor, partner: torch.Tensor, share: float, class_counts: torch.Tensor
    ) -> Mix:
        """Return the mix for a drawn share and permutation."""
        mix = paired(labels, share, partner)
        shares = self.label_shares(labels, partner, share, class_counts)
        if self.variant == "official":
            return mix._replace(label_share=shares.mean().float())
        # A label that counts whole stands in both places: then one share is right for all samples.
        return mix._replace(
            labels=torch.where(shares == 0, mix.partner_labels, labels),
            partner_labels=torch.where(shares == 1, labels, mix.partner_labels),
        )
