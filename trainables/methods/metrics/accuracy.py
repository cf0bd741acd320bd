from __future__ import annotations

import torch

from trainables.methods.metrics import Metric


class Accuracy(Metric):
    """Share of right predictions: overall, per class on average, and by class size.

    ``accuracy``; ``accuracy/balanced`` = mean over the classes that occur of their accuracy;
    ``accuracy/many|medium|few`` = the same over the classes of a band by training images.

    Shapes:
        labels [N] int64; predictions [N] int64, or logits [N, C] whose argmax is the prediction;
        class_counts [C] int64 (optional; without it, and for labels of C and above, there are no
        bands); many_above, few_below: a class with more than 100 (fewer than 20) training images
        is "many" ("few"), the rest is "medium". Gives fractions in [0, 1]; higher = better.

    A band without a sample is left out, not 0. No sample at all gives an empty dictionary.

    Source:
        Liu et al. 2019, "Large-Scale Long-Tailed Recognition in an Open World", arXiv 1904.05160;
        facebookresearch/classifier-balancing utils.py ``shot_acc`` (which reports 0 for an empty
        band).

    Raises:
        ValueError: There are neither predictions nor logits.

    Example:
        >>> guesses, labels = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])
        >>> counts = torch.tensor([300, 10])
        >>> Accuracy()(predictions=guesses, labels=labels, class_counts=counts)
        {'accuracy': 0.75, 'accuracy/balanced': 0.5, 'accuracy/many': 1.0, 'accuracy/few': 0.0}
    """

    def __call__(
        self,
        *,
        labels: torch.Tensor,
        predictions: torch.Tensor | None = None,
        logits: torch.Tensor | None = None,
        class_counts: torch.Tensor | None = None,
        many_above: int = 100,
        few_below: int = 20,
    ) -> dict[str, float]:
        if predictions is None:
            if logits is None:
                raise ValueError("metrics/accuracy needs predictions or logits; received neither")
            predictions = logits.argmax(dim=1)
        if len(labels) == 0:
            return {}
        right = (predictions == labels).double()
        totals = torch.bincount(labels)
        per_class = torch.bincount(labels, weights=right) / totals.clamp_min(1)
        result = {
            "accuracy": float(right.mean()),
            "accuracy/balanced": float(per_class[totals > 0].mean()),
        }
        if class_counts is not None:
            for name, members in size_bands(class_counts, many_above, few_below).items():
                chosen = members[: len(totals)] & (totals[: len(members)] > 0)
                if chosen.any():
                    result[f"accuracy/{name}"] = float(per_class[: len(chosen)][chosen].mean())
        return result


def size_bands(
    class_counts: torch.Tensor, many_above: int, few_below: int
) -> dict[str, torch.Tensor]:
    """Return which classes ``[C]`` are many, medium and few; each class is in one band.

    Example:
        >>> bands = size_bands(torch.tensor([500, 101, 100, 20, 19]), 100, 20)
        >>> {name: int(members.sum()) for name, members in bands.items()}
        {'many': 2, 'medium': 2, 'few': 1}
    """
    few = class_counts < few_below
    many = (class_counts > many_above) & ~few
    return {"many": many, "medium": ~many & ~few, "few": few}
