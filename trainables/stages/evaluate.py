"""Stage 8: what came out, measured on held-out views that no other stage is handed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from trainables.artifacts import (
    Backbone,
    Classifier,
    Evaluation,
    Features,
    LabelledView,
    PoolLabels,
    PoolSelection,
    PseudoLabels,
    Scorer,
)
from trainables.backbone import extract_features, from_artifact
from trainables.context import Context
from trainables.experiment import Evaluate
from trainables.methods.metrics import Metric
from trainables.methods.metrics.accuracy import size_bands
from trainables.placement import placed
from trainables.predict import calibrated, confidence, head_module, predict_logits
from trainables.routed_experts import RoutedExpertsHead, mean_experts_used

PROVIDES: dict[str, frozenset[str]] = {}


class Evaluated(NamedTuple):
    """What the stage gives."""

    evaluation: Evaluation


class _Held(NamedTuple):
    """Held-out known samples, then novel ones: true labels, the old model's calibrated logits.

    ``known [N]`` marks the known ones.
    """

    features: Tensor
    labels: Tensor
    known: Tensor
    logits: Tensor
    confidence: Tensor


def run(
    settings: Evaluate,
    *,
    backbone: Backbone,
    classifier: Classifier,
    features: Features,
    validation_known: LabelledView,
    scorer: Scorer,
    pool_selection: PoolSelection,
    pseudo_labels: PseudoLabels,
    updated_backbone: Backbone,
    updated_classifier: Classifier,
    held_out_known: LabelledView,
    held_out_novel: LabelledView,
    pool_labels: PoolLabels,
    context: Context,
) -> Evaluated:
    """Measure the classifier, its confidence, the pool, the pseudo-labels and the updated model.

    Directions: every metric is higher = better, but for ``calibration/*``, ``fpr_*`` and
    ``forgetting``. Metrics whose value is undefined (an empty band, no novel sample) are left out.
    """
    views = (held_out_known, held_out_novel)
    held = _held_out(backbone, classifier, scorer, views, context)
    truth = torch.from_numpy(pool_labels.labels)
    num_known = pool_labels.num_known
    mapping = majority_classes(pseudo_labels, truth, num_known, pool_labels.num_novel)
    seen = held.features  # an update that left the trunk alone sees the same
    if not _same_trunk(backbone, updated_backbone):
        seen = _features(updated_backbone, views, context)
    predicted = mapping[_logits(updated_classifier, seen, context).argmax(1)]
    validation = calibrated(scorer, _logits(classifier, features.validation_known, context))
    parts = {
        **_known_metrics(settings, classifier, held),
        **_prior_metrics(classifier, held, validation, validation_known),
        **_cost(settings, backbone, classifier, held),
        **_measure("features", {"features": held.features, "labels": held.labels}),
        **_novelty_metrics(settings, classifier, scorer, held),
        **_pool_metrics(pool_selection, truth, num_known),
        **_discovery_metrics(pseudo_labels, truth, num_known),
        **_update_metrics(held, predicted, num_known),
        "oracle": float(pseudo_labels.oracle or classifier.oracle),
        "leaked_pretraining": float(backbone.pretrained_on not in ("", "nothing")),
    }
    metrics = {f"evaluate/{name}": float(value) for name, value in parts.items()}
    finite = {name: value for name, value in metrics.items() if value == value}
    arrays = _arrays(classifier, scorer, held, predicted, num_known + pool_labels.num_novel)
    return Evaluated(Evaluation(finite, arrays))


def _held_out(
    backbone: Backbone,
    classifier: Classifier,
    scorer: Scorer,
    views: tuple[LabelledView, LabelledView],
    context: Context,
) -> _Held:
    features = _features(backbone, views, context)
    logits = calibrated(scorer, _logits(classifier, features, context))
    there = {"features": features, "logits": logits, "class_counts": classifier.class_counts}
    sureness = confidence(placed(scorer, context.device), **placed(there, context.device)).cpu()
    labels = torch.cat([torch.from_numpy(view.labels) for view in views])
    known = torch.arange(len(labels)) < len(views[0].labels)
    return _Held(features, labels, known, logits, sureness)


def _measure(name: str, available: dict[str, object]) -> dict[str, float]:
    """Call one metric of the shelf with default settings."""
    values: dict[str, float] = Metric.lookup(name)().supplied(available)
    return values


def _known_metrics(settings: Evaluate, classifier: Classifier, held: _Held) -> dict[str, float]:
    """Accuracy per band and calibration on the held-out known samples."""
    logits, labels = held.logits[held.known], held.labels[held.known]
    available = {
        "logits": logits,
        "labels": labels,
        "class_counts": classifier.class_counts,
        "many_above": settings.many_above,
        "few_below": settings.few_below,
    }
    calibration = Metric.lookup("calibration").model_validate({"bins": settings.bins})
    return {**_measure("accuracy", dict(available)), **calibration.supplied(available)}


def _prior_metrics(
    classifier: Classifier, held: _Held, validation: Tensor, view: LabelledView
) -> dict[str, float]:
    """Accuracy where the test has a long tail too; the validation view tells the held prior."""
    available: dict[str, object] = {
        "logits": held.logits[held.known],
        "labels": held.labels[held.known],
        "class_counts": classifier.class_counts,
        "validation_logits": validation,
        "validation_labels": torch.from_numpy(view.labels),
    }
    return _measure("prior_shift", available)


def _cost(
    settings: Evaluate, backbone: Backbone, classifier: Classifier, held: _Held
) -> dict[str, float]:
    """What a score has to be compared by: the network's size, how much of it answers, training."""
    trunk, head = from_artifact(backbone), head_module(classifier)
    spent = dict(classifier.training)
    spent["parameters"] = sum(p.numel() for part in (trunk, head) for p in part.parameters())
    if isinstance(head, RoutedExpertsHead):
        bands = size_bands(classifier.class_counts, settings.many_above, settings.few_below)
        known = held.known
        spent |= mean_experts_used(head, held.features[known], held.labels[known], bands)
    return {f"cost/{name}": float(value) for name, value in spent.items()}


def _novelty_metrics(
    settings: Evaluate, classifier: Classifier, scorer: Scorer, held: _Held
) -> dict[str, float]:
    """How well confidence separates known from novel samples, and what the threshold does."""
    available: dict[str, object] = {
        "confidence": held.confidence,
        "known": held.known,
        "labels": held.labels,
        "logits": held.logits,
        "predictions": held.logits.argmax(1),
        "threshold": scorer.threshold,
        "class_counts": classifier.class_counts,
        "many_above": settings.many_above,
        "few_below": settings.few_below,
    }
    return _measure("open_set", available)


def _pool_metrics(selection: PoolSelection, truth: Tensor, num_known: int) -> dict[str, float]:
    """Size of the selection, the share that is really novel, and the unrelated contamination."""
    chosen = truth[selection.positions]
    size, novel = len(chosen), int((truth >= num_known).sum())
    found = int((chosen >= num_known).sum())
    return {
        "pool/size": size,
        "pool/precision": found / size if size else float("nan"),
        "pool/recall": found / novel if novel else float("nan"),
        "pool/unrelated": float((chosen < 0).float().mean()) if size else float("nan"),
    }


def _discovery_metrics(
    pseudo_labels: PseudoLabels, truth: Tensor, num_known: int
) -> dict[str, float]:
    """Clustering accuracy of the kept pseudo-labels against the truth of related samples."""
    kept = pseudo_labels.weights > 0
    true = truth[pseudo_labels.positions][kept]
    given = pseudo_labels.labels[kept]
    report = {f"discover/{name}": value for name, value in pseudo_labels.quality.items()}
    report["discover/num_clusters"] = pseudo_labels.num_clusters
    report["discover/kept"] = int(kept.sum())
    report["discover/unrelated_kept"] = float((true < 0).float().mean()) if len(true) else 0.0
    related = true >= 0
    if bool(related.any()):
        available: dict[str, object] = {
            "assignments": given[related],
            "labels": true[related],
            "num_known": num_known,
        }
        report.update(_measure("clustering", available))
    return report


def majority_classes(
    pseudo_labels: PseudoLabels, truth: Tensor, num_known: int, num_novel: int
) -> Tensor:
    """Name each output of the updated model: ``[C + clusters]`` class ids, -1 = no class.

    Known outputs keep their class. New clusters are matched one to one with new classes so that
    most pool samples agree (Hungarian); clusters without a class count as wrong everywhere. The
    matching is read off the pool and applied to the held-out samples: a person who names clusters
    sees the pool too.
    """
    names = torch.full((num_known + pseudo_labels.num_clusters,), -1, dtype=torch.int64)
    names[:num_known] = torch.arange(num_known)
    kept = (pseudo_labels.weights > 0) & (pseudo_labels.labels >= num_known)
    true = truth[pseudo_labels.positions][kept] - num_known
    cluster = pseudo_labels.labels[kept] - num_known
    overlap = torch.zeros(pseudo_labels.num_clusters, num_novel, dtype=torch.int64)
    novel = true >= 0
    overlap.index_put_((cluster[novel], true[novel]), torch.tensor(1), accumulate=True)
    rows, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    names[num_known + torch.as_tensor(rows)] = num_known + torch.as_tensor(columns)
    return names


def _features(
    backbone: Backbone, views: tuple[LabelledView, LabelledView], context: Context
) -> Tensor:
    """Return the features of both held-out views, one after the other."""
    trunk = from_artifact(backbone).to(context.device)
    return torch.cat([extract_features(trunk, view, device=context.device) for view in views])


def _logits(classifier: Classifier, features: Tensor, context: Context) -> Tensor:
    """Return a classifier's logits, computed on the context's device, on the CPU."""
    device = context.device
    return predict_logits(placed(classifier, device), features.to(device)).cpu()


def _same_trunk(one: Backbone, other: Backbone) -> bool:
    """Say whether two trunks are equal bit by bit."""
    return (
        one.architecture == other.architecture
        and one.image_size == other.image_size
        and one.state.keys() == other.state.keys()
        and all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    )


def _update_metrics(held: _Held, predicted: Tensor, num_known: int) -> dict[str, float]:
    """All-class accuracy (mean over classes) after the update, by part, and forgetting."""
    correct = (predicted == held.labels).float()
    classes = held.labels.unique()
    per_class = torch.stack([correct[held.labels == c].mean() for c in classes])
    before = (held.logits.argmax(1) == held.labels).float()
    known, novel = classes < num_known, classes >= num_known
    before_known = torch.stack([before[held.labels == c].mean() for c in classes[known]]).mean()
    return {
        "update/accuracy": float(per_class.mean()),
        "update/accuracy/known": float(per_class[known].mean()),
        "update/accuracy/novel": float(per_class[novel].mean()),
        "update/forgetting": float(before_known - per_class[known].mean()),
        "update/without": float(before_known * known.float().mean()),
    }


def _arrays(
    classifier: Classifier, scorer: Scorer, held: _Held, predicted: Tensor, num_classes: int
) -> dict[str, Tensor]:
    """Return what figures are drawn from."""
    known = held.known
    labels, logits = held.labels[known], held.logits[known]
    size = len(classifier.class_counts)
    confusion = torch.zeros(size, size, dtype=torch.int64)
    confusion.index_put_((labels, logits.argmax(1)), torch.tensor(1), accumulate=True)
    updated = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
    column = torch.where(predicted < 0, num_classes, predicted)  # last column: no class
    updated.index_put_((held.labels, column), torch.tensor(1), accumulate=True)
    return {
        "confusion": confusion,
        "updated_confusion": updated,
        "class_accuracy": confusion.diagonal() / confusion.sum(1).clamp(min=1),
        "class_counts": classifier.class_counts,
        "confidence_known": held.confidence[known],
        "confidence_novel": held.confidence[~known],
        "threshold": torch.tensor(scorer.threshold),
        "probability": logits.softmax(1).amax(1),
        "correct": logits.argmax(1) == labels,
    }
