"""Many corrections of one classifier: draws of their settings, one computation, their merit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.artifacts import Classifier
from trainables.batched_heads import train_heads
from trainables.head_training import HeadJob
from trainables.methods.method import Choice, Method, Range, search_range
from trainables.methods.rebalancers import HeadRebalancing, Rebalancer
from trainables.predict import predict_logits


def drawn_settings(method: type[Method], generator: torch.Generator) -> dict[str, Any]:
    """Draw a value for each setting that has a search range, uniformly in it.

    Example:
        >>> from trainables.methods.rebalancers.logit_adjustment import LogitAdjustment
        >>> drawn = drawn_settings(LogitAdjustment, torch.Generator().manual_seed(0))
        >>> list(drawn), 0.25 <= drawn["tau"] <= 2.0
        (['tau'], True)
    """
    drawn: dict[str, Any] = {}
    for name, field in method.model_fields.items():
        allowed = search_range(field)
        if isinstance(allowed, Choice):
            place = int(torch.randint(len(allowed.values), (), generator=generator))
            drawn[name] = allowed.values[place]
        elif isinstance(allowed, Range):
            value = _number(allowed, float(torch.rand((), generator=generator)))
            drawn[name] = round(value) if field.annotation is int else value
    return drawn


def _number(allowed: Range, share: float) -> float:
    """Return the number that lies at a share of a range."""
    if allowed.log:
        value = allowed.low * math.exp(share * math.log(allowed.high / allowed.low))
    else:
        value = allowed.low + share * (allowed.high - allowed.low)
    if allowed.step:
        value = allowed.low + allowed.step * round((value - allowed.low) / allowed.step)
    return min(max(value, allowed.low), allowed.high)


def applied_together(
    methods: Sequence[Rebalancer], available: Mapping[str, Any], *, seed: int
) -> dict[int, Classifier]:
    """Apply corrections to one classifier; the heads that some of them train, train together.

    Args:
        methods: The corrections.
        available: Their arguments by name, all but ``generator``.
        seed: Of each correction's generator: all start alike and draw the same samples.

    Returns:
        Place among the methods -> corrected classifier; a correction that does not fit the head,
        or whose training did not converge, is left out.
    """
    results: dict[int, Classifier] = {}
    jobs: dict[int, HeadJob] = {}
    classifier: Classifier = available["classifier"]
    for place, method in enumerate(methods):
        own = {**available, "generator": torch.Generator().manual_seed(seed)}
        try:
            if isinstance(method, HeadRebalancing):
                jobs[place] = method.supplied(own, "job")
            else:
                results[place] = method.supplied(own)
        except (ValueError, ArithmeticError):  # another head is needed, or it diverged
            continue
    trained = train_heads(
        list(jobs.values()), features=available["features"], labels=available["labels"]
    )
    for place, module in zip(jobs, trained, strict=True):
        trainer = methods[place]
        if isinstance(module, nn.Module) and isinstance(trainer, HeadRebalancing):
            results[place] = trainer.finished(classifier, module)
    return results


def merit(classifier: Classifier, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return mean per-class accuracy and minus the mean per-class cross-entropy: higher = better.

    The second decides where the first is equal, which few images make likely.
    """
    # counted on the CPU: class by class is too little for a GPU, and each would be waited for
    logits, labels = predict_logits(classifier, features).cpu(), labels.cpu()
    right = (logits.argmax(1) == labels).double()
    surprise = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    classes = [labels == label for label in labels.unique()]
    accuracy = torch.stack([right[own].mean() for own in classes]).mean()
    entropy = torch.stack([surprise[own].mean() for own in classes]).mean()
    return float(accuracy), -float(entropy)
