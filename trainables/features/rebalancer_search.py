"""Sample rebalancer settings, apply them in one batch, answer out of fold (`tuned`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.artifacts import Classifier
from trainables.closed_form.fitting import ClosedForm, Fit
from trainables.closed_form.out_of_fold import k_fold
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import Samples, samples
from trainables.features.balanced_training import HeadRebalancing
from trainables.features.batched_heads import train_heads
from trainables.features.head_training import HeadTrainingSpec
from trainables.features.predict import predict_logits
from trainables.methods.method import Choice, Method, Range, search_range
from trainables.methods.rebalancers import Rebalancer


def draw_settings(method: type[Method], generator: torch.Generator) -> dict[str, Any]:
    """Draw a value for each setting with a search range, uniformly in the range.

    Example:
        >>> from trainables.methods.rebalancers.logit_adjustment import LogitAdjustment
        >>> drawn = draw_settings(LogitAdjustment, torch.Generator().manual_seed(0))
        >>> list(drawn), 0.25 <= drawn["tau"] <= 2.0
        (['tau'], True)
    """
    settings: dict[str, Any] = {}
    for name, field in method.model_fields.items():
        allowed = search_range(field)
        if isinstance(allowed, Choice):
            place = int(torch.randint(len(allowed.values), (), generator=generator))
            settings[name] = allowed.values[place]
        elif isinstance(allowed, Range):
            value = _number(allowed, float(torch.rand((), generator=generator)))
            settings[name] = round(value) if field.annotation is int else value
    return settings


def _number(allowed: Range, fraction: float) -> float:
    """Return the number at a fraction ``share`` of a range."""
    if allowed.log:
        value = allowed.low * math.exp(fraction * math.log(allowed.high / allowed.low))
    else:
        value = allowed.low + fraction * (allowed.high - allowed.low)
    if allowed.step:
        value = allowed.low + allowed.step * round((value - allowed.low) / allowed.step)
    return min(max(value, allowed.low), allowed.high)


def apply_in_batch(
    methods: Sequence[Rebalancer], available: Mapping[str, Any], *, seed: int
) -> dict[int, Classifier]:
    """Apply rebalancers to one classifier; train the heads among them in one batch.

    Those that are computed from features share their decompositions.

    Args:
        methods: The rebalancers.
        available: Arguments of the rebalancers by name, except ``generator``.
        seed: Seed of every rebalancer's generator, so that all draw the same samples.

    Returns:
        Rebalanced classifiers by index into ``methods``; a rebalancer that does not support the
        head, or whose training diverges, is left out.
    """
    results: dict[int, Classifier] = {}
    jobs: dict[int, HeadTrainingSpec] = {}
    classifier: Classifier = available["classifier"]
    for place, method in enumerate(methods):
        arguments = {**available, "generator": torch.Generator().manual_seed(seed)}
        if isinstance(method, ClosedForm):
            continue
        try:
            if isinstance(method, HeadRebalancing):
                jobs[place] = method.call_with(arguments, "job")
            else:
                results[place] = method.call_with(arguments)
        except (ValueError, ArithmeticError):  # unsupported head, or diverged training
            continue
    trained = train_heads(
        list(jobs.values()), features=available["features"], labels=available["labels"]
    )
    for place, module in zip(jobs, trained, strict=True):
        trainer = methods[place]
        if isinstance(module, nn.Module) and isinstance(trainer, HeadRebalancing):
            results[place] = trainer.finished(classifier, module)
    data = samples(available["features"], available["labels"], groups=available.get("groups"))
    results |= {place: fit.classifier for place, fit in fit_closed_forms(methods, classifier, data)}
    return results


def fit_closed_forms(
    methods: Sequence[Rebalancer], classifier: Classifier, data: Samples
) -> Iterator[tuple[int, Fit]]:
    """Yield the fit of each rebalancer that is computed from features, with its index.

    All of one name are fitted together, one fit is kept at a time.

    Args:
        methods: Rebalancers, of which others are skipped.
        classifier: The classifier before.
        data: The training images.
    """
    places: dict[type[ClosedForm], list[int]] = {}
    for place, method in enumerate(methods):
        if isinstance(method, ClosedForm):
            places.setdefault(type(method), []).append(place)
    for kind, own in places.items():
        alike = [methods[place] for place in own]
        for number, fit in kind.fit_each(alike, classifier=classifier, data=data):
            yield own[number], fit


def answer_out_of_fold(
    methods: Sequence[Rebalancer], available: Mapping[str, Any], data: Samples, *, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield, by index into ``methods``, logits ``[N, C]`` of images by fits without their group.

    They are exact where the rebalancer has a closed form, otherwise from five folds; a class that
    leaves such a fit with the group has `NEVER`. Rebalancers that depend on the given classifier
    have none, because it was trained on all images.

    Args:
        methods: The rebalancers.
        available: As for `apply_in_batch`.
        data: The training images with their groups.
        seed: Seed of the folds and of every rebalancer's generator.
    """
    folded = []
    for place, fit in fit_closed_forms(methods, available["classifier"], data):
        if fit.logits is None:
            folded.append(place)
        else:
            yield place, fit.logits
    trained = [m.from_features and not isinstance(m, ClosedForm) for m in methods]
    folded += [place for place, wanted in enumerate(trained) if wanted]
    if not folded:
        return
    alike = [methods[place] for place in folded]

    def answer(fitted: Tensor, asked: Tensor) -> Tensor:
        part = {
            "features": data.features[fitted],
            "labels": data.labels[fitted],
            "groups": data.groups[fitted],
        }
        found = apply_in_batch(alike, {**available, **part}, seed=seed)
        missing = data.features.new_full((len(asked), len(available["class_counts"])), torch.nan)
        logits = [
            predict_logits(found[n], data.features[asked]) if n in found else missing
            for n in range(len(alike))
        ]
        there = torch.bincount(part["labels"], minlength=len(available["class_counts"])) > 0
        return torch.stack(logits, dim=1).masked_fill(~there, NEVER)

    answers = k_fold(data, answer, generator=torch.Generator().manual_seed(seed))
    for number, place in enumerate(folded):
        if not bool(answers[:, number].isnan().any()):
            yield place, answers[:, number]


def merit(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean per-class accuracy and the negative mean per-class cross-entropy.

    The cross-entropy breaks ties in accuracy, which are frequent with few images.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]`` int64; classes that do not occur do not count.

    Example:
        >>> merit(torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 0, 1]))[0]
        0.5
    """
    # on the CPU, because a loop over classes would synchronize with a GPU once per class
    logits, labels = logits.cpu(), labels.cpu()
    right = (logits.argmax(1) == labels).double()
    surprise = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    classes = [labels == label for label in labels.unique()]
    accuracy = torch.stack([right[of_class].mean() for of_class in classes]).mean()
    entropy = torch.stack([surprise[of_class].mean() for of_class in classes]).mean()
    return float(accuracy), -float(entropy)
