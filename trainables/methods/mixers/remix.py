"""Remix."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import begun, filled_counts
from trainables.methods.method import Choice, Range
from trainables.methods.mixers import Alpha, Mixer, Until
from trainables.transforms.mixing import Mix, draw_partners, draw_share, paired


class Remix(Mixer):
    """Mixup that gives a pair the label of the rarer class if the other is much more frequent.

    Images are mixed as in mixup with weight a. For sample i with partner j, the weight of label i
    is 0 if ``n_i / n_j >= kappa`` and ``a < tau``, 1 if ``n_i / n_j <= 1 / kappa`` and
    ``1 - a < tau``, otherwise a.

    Args:
        alpha: Parameter of the Beta distribution, in (0, 100]. Default 1.
        kappa: Ratio of class sizes from which the more frequent class loses its label, >= 1.
            Default 3.
        tau: Image weight below which a label can be lost, in [0, 1]. Default 0.5.
        until: Fraction of training with mixing, in (0, 1]. Default 1.
        variant: ``paper`` (default) weights the loss of each sample by the sample's label weight;
            ``official`` is the long-tailed code, which weights the two mean losses of the batch by
            the mean label weight.

    Shapes:
        labels ``[B]`` int64, class_counts ``[C]``, progress in [0, 1] ->
        `trainables.transforms.mixing.Mix`, or ``None`` after ``until``.

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
        """Return the weight of each sample's label ``[B]`` float64, one of 0, 1 and ``share``."""
        counts = filled_counts(class_counts)[labels]
        ratio = counts / counts[partner]
        lost = (ratio >= self.kappa) & (share < self.tau)
        whole = (ratio <= 1 / self.kappa) & (1 - share < self.tau)
        shares = torch.full_like(ratio, share)
        return shares.masked_fill(whole, 1.0).masked_fill(lost, 0.0)  # with kappa 1 both may hold

    def pair(
        self, labels: torch.Tensor, partner: torch.Tensor, share: float, class_counts: torch.Tensor
    ) -> Mix:
        """Return the mix for a given weight and permutation."""
        mix = paired(labels, share, partner)
        shares = self.label_shares(labels, partner, share, class_counts)
        if self.variant == "official":
            return mix._replace(label_share=shares.mean().float())
        # a sample with one label has that label twice, so that one weight is right for all samples
        return mix._replace(
            labels=torch.where(shares == 0, mix.partner_labels, labels),
            partner_labels=torch.where(shares == 1, labels, mix.partner_labels),
        )
