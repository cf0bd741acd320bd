"""Stage `evaluate`: metrics on held-out views, which no other stage gets."""

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
    HeldOutFeatures,
    ImageView,
    LabelledView,
    OutOfFold,
    PoolLabels,
    PoolSelection,
    PseudoLabels,
    Scorer,
)
from trainables.context import Context
from trainables.experiment import Evaluate
from trainables.features.predict import calibrated, confidence, head_module, predict_logits
from trainables.functional.to_device import to_device
from trainables.inference.judge import (
    UNKNOWN,
    ModelAnswers,
    Truth,
    answers_of,
    judge,
    judge_out_of_fold,
    of_rows,
    right_answers,
)
from trainables.methods.metrics import Metric
from trainables.methods.metrics.accuracy import size_bands
from trainables.models.backbone import from_artifact
from trainables.models.routed_experts import RoutedExpertsHead, mean_experts_used
from trainables.weights.provenance import is_known, saw_labels_of

PROVIDES: dict[str, frozenset[str]] = {}


class Evaluated(NamedTuple):
    """Artifact of the stage."""

    evaluation: Evaluation


LOOKED_UP = {
    "metrics": ("accuracy", "calibration", "clustering", "features", "open_set", "prior_shift")
}


class _HeldOutOutputs(NamedTuple):
    """Labels and calibrated outputs of the model before the update, on known then new samples.

    ``known [N]`` marks samples of known classes; ``threshold`` is that of all, or of each ``[N]``.
    """

    features: Tensor
    labels: Tensor
    known: Tensor
    logits: Tensor
    confidence: Tensor
    threshold: float | Tensor


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
    updated_classifier: Classifier,
    updated_scorer: Scorer,
    held_out_known: LabelledView,
    held_out_novel: LabelledView,
    held_out_unknown: LabelledView,
    held_out_features: HeldOutFeatures,
    pool_labels: PoolLabels,
    known_train: LabelledView,
    withheld: ImageView,
    out_of_fold: OutOfFold,
    context: Context,
) -> Evaluated:
    """Evaluate the classifier, its confidence, the pool, the pseudo-labels and the updated model.

    ``evaluate/first/...`` and ``evaluate/updated/...`` judge the model before and the model after
    the update as the model that answers (`trainables.inference.judge`); the other metrics of
    classifier and confidence are of the first one. Higher is better for all metrics except
    ``calibration/*``, ``fpr_*``, ``false_alarm`` and ``forgetting``. Undefined metrics (an empty
    band, no new samples) are left out.

    ``out_of_fold/...`` judge answers to training images by fits without them, where these stand in
    for validation images.
    """
    truth, num_known = torch.from_numpy(pool_labels.labels), pool_labels.num_known
    mapping = majority_classes(pseudo_labels, truth, num_known, pool_labels.num_novel)
    views = (held_out_known, held_out_novel)
    held_out = _truth(settings, classifier, scorer, views, len(held_out_unknown.labels))
    before, after = held_out_features
    first = _answers(classifier, scorer, before, mapping[:num_known], context)
    after = after if len(after) else before  # the update left the trunk as it was
    updated = _answers(updated_classifier, updated_scorer, after, mapping, context)
    rows, held = held_out.labels != UNKNOWN, _held_out(first, before, held_out)
    predicted = updated.predicted[rows]
    seen = _logits(classifier, features.validation_known, context), validation_known.labels
    if len(out_of_fold.logits):
        seen = out_of_fold.logits, known_train.labels
    parts = {
        **_known_metrics(settings, classifier, held),
        **_prior_metrics(classifier, held, calibrated(scorer, seen[0]), torch.from_numpy(seen[1])),
        **_cost(settings, backbone, classifier, held),
        **_measure("features", {"features": held.features, "labels": held.labels}),
        **_novelty_metrics(settings, classifier, scorer, held),
        **_pool_metrics(pool_selection, truth, num_known),
        **_discovery_metrics(pseudo_labels, truth, num_known),
        **_update_metrics(held, predicted, num_known),
        **_judged(first, updated, held_out),
        "oracle": float(pseudo_labels.oracle or classifier.oracle),
        "leaked_pretraining": float(saw_labels_of(backbone, [withheld], known_train)),
        "unknown_pretraining": float(not is_known(backbone.pretrained_on)),
    }
    metrics = {f"evaluate/{name}": float(value) for name, value in parts.items()}
    own = _truth_of(settings, classifier, scorer, torch.from_numpy(known_train.labels))
    metrics |= judge_out_of_fold(out_of_fold, scorer, own)
    finite = {name: value for name, value in metrics.items() if value == value}
    arrays = _arrays(
        settings, classifier, scorer, held, predicted, num_known + pool_labels.num_novel
    )
    for name, answers in (("first", first), ("updated", updated)):
        arrays[f"{name}_right"] = right_answers(answers, held_out.labels, num_known)[rows]
    return Evaluated(Evaluation(finite, {**arrays, "cluster_classes": mapping[num_known:]}))


def _truth(
    settings: Evaluate,
    classifier: Classifier,
    scorer: Scorer,
    views: tuple[LabelledView, ...],
    unknown: int,
) -> Truth:
    """Return the labels of the held-out images and the bands of the classes."""
    labels = [*(torch.from_numpy(view.labels) for view in views), torch.full((unknown,), UNKNOWN)]
    return _truth_of(settings, classifier, scorer, torch.cat(labels))


def _held_out(first: ModelAnswers, features: Tensor, truth: Truth) -> _HeldOutOutputs:
    """Return the outputs of the model before the update for samples that have a class."""
    rows = truth.labels != UNKNOWN
    labels = truth.labels[rows]
    return _HeldOutOutputs(
        features[rows],
        labels,
        labels < len(truth.class_counts),
        first.logits[rows],
        first.confidence[rows],
        of_rows(first.threshold, rows),
    )


def _truth_of(settings: Evaluate, classifier: Classifier, scorer: Scorer, labels: Tensor) -> Truth:
    bounds = settings.many_above, settings.few_below, settings.bins
    return Truth(labels, classifier.class_counts, *bounds, scorer.prior)


def _answers(
    classifier: Classifier, scorer: Scorer, features: Tensor, classes: Tensor, context: Context
) -> ModelAnswers:
    """Return a model's calibrated outputs for the held-out samples."""
    logits = calibrated(scorer, _logits(classifier, features, context))
    outputs = {"features": features, "logits": logits, "class_counts": classifier.class_counts}
    confidences = confidence(
        to_device(scorer, context.device), **to_device(outputs, context.device)
    ).cpu()
    return answers_of(scorer, logits, confidences, classes)


def _judged(first: ModelAnswers, updated: ModelAnswers, truth: Truth) -> dict[str, float]:
    """Return the metrics of both models as the model that answers, and what the update forgets."""
    before, after = judge(first, truth), judge(updated, truth)
    if "accuracy/balanced" in before:
        before["forgetting"] = 0.0
        after["forgetting"] = before["accuracy/balanced"] - after["accuracy/balanced"]
    found = {f"first/{name}": value for name, value in before.items()}
    return found | {f"updated/{name}": value for name, value in after.items()}


def _measure(name: str, available: dict[str, object]) -> dict[str, float]:
    """Call a metric with default settings."""
    values: dict[str, float] = Metric.lookup(name)().call_with(available)
    return values


def _known_metrics(
    settings: Evaluate, classifier: Classifier, held: _HeldOutOutputs
) -> dict[str, float]:
    """Return accuracy by band and calibration on the held-out known samples."""
    logits, labels = held.logits[held.known], held.labels[held.known]
    available = {
        "logits": logits,
        "labels": labels,
        "class_counts": classifier.class_counts,
        "many_above": settings.many_above,
        "few_below": settings.few_below,
    }
    calibration = Metric.lookup("calibration").model_validate({"bins": settings.bins})
    return {**_measure("accuracy", dict(available)), **calibration.call_with(available)}


def _prior_metrics(
    classifier: Classifier, held: _HeldOutOutputs, validation: Tensor, labels: Tensor
) -> dict[str, float]:
    """Return accuracies under shifted test priors; validation logits estimate the held prior."""
    available: dict[str, object] = {
        "logits": held.logits[held.known],
        "labels": held.labels[held.known],
        "class_counts": classifier.class_counts,
        "validation_logits": validation,
        "validation_labels": labels,
    }
    return _measure("prior_shift", available)


def _cost(
    settings: Evaluate, backbone: Backbone, classifier: Classifier, held: _HeldOutOutputs
) -> dict[str, float]:
    """Return the cost of a model: number of parameters, experts used, and training iterations."""
    trunk, head = from_artifact(backbone), head_module(classifier)
    costs = dict(classifier.train_cost)
    costs["parameters"] = sum(p.numel() for part in (trunk, head) for p in part.parameters())
    if isinstance(head, RoutedExpertsHead):
        bands = size_bands(classifier.class_counts, settings.many_above, settings.few_below)
        known = held.known
        costs |= mean_experts_used(head, held.features[known], held.labels[known], bands)
    return {f"cost/{name}": float(value) for name, value in costs.items()}


def _novelty_metrics(
    settings: Evaluate, classifier: Classifier, scorer: Scorer, held: _HeldOutOutputs
) -> dict[str, float]:
    """Return the separation of known and new samples by confidence, and threshold metrics."""
    available: dict[str, object] = {
        "confidence": held.confidence,
        "known": held.known,
        "labels": held.labels,
        "logits": held.logits,
        "predictions": held.logits.argmax(1),
        "threshold": held.threshold,
        "class_counts": classifier.class_counts,
        "many_above": settings.many_above,
        "few_below": settings.few_below,
    }
    return _measure("open_set", available)


def _pool_metrics(selection: PoolSelection, truth: Tensor, num_known: int) -> dict[str, float]:
    """Return the selection's size, its precision and recall of new samples, unrelated fraction."""
    chosen = truth[selection.positions]
    size, novel = len(chosen), int((truth >= num_known).sum())
    selected_novel = int((chosen >= num_known).sum())
    return {
        "pool/size": size,
        "pool/precision": selected_novel / size if size else float("nan"),
        "pool/recall": selected_novel / novel if novel else float("nan"),
        "pool/unrelated": float((chosen < 0).float().mean()) if size else float("nan"),
    }


def _discovery_metrics(
    pseudo_labels: PseudoLabels, truth: Tensor, num_known: int
) -> dict[str, float]:
    """Return the clustering accuracy of pseudo-labels of positive weight, on related samples."""
    kept = pseudo_labels.weights > 0
    true = truth[pseudo_labels.positions][kept]
    assigned = pseudo_labels.labels[kept]
    report = {f"discover/{name}": value for name, value in pseudo_labels.quality.items()}
    report["discover/num_new_clusters"] = pseudo_labels.num_new_clusters
    report["discover/kept"] = int(kept.sum())
    report["discover/unrelated_kept"] = float((true < 0).float().mean())  # NaN: nothing was kept
    related = true >= 0
    if bool(related.any()):
        available: dict[str, object] = {
            "assignments": assigned[related],
            "labels": true[related],
            "num_known": num_known,
        }
        report.update(_measure("clustering", available))
    return report


def majority_classes(
    pseudo_labels: PseudoLabels, truth: Tensor, num_known: int, num_novel: int
) -> Tensor:
    """Return the class id of each output of the updated model, ``[C + clusters]``, -1 for none.

    Known outputs keep their class. New clusters are matched one to one with new classes by the
    Hungarian algorithm on the pool samples; predictions of a cluster without a class are wrong. The
    matching on the pool is applied to the held-out samples, because an expert who names clusters
    sees the pool, too.
    """
    names = torch.full((num_known + pseudo_labels.num_new_clusters,), -1, dtype=torch.int64)
    names[:num_known] = torch.arange(num_known)
    kept = (pseudo_labels.weights > 0) & (pseudo_labels.labels >= num_known)
    true = truth[pseudo_labels.positions][kept] - num_known
    cluster = pseudo_labels.labels[kept] - num_known
    overlap = torch.zeros(pseudo_labels.num_new_clusters, num_novel, dtype=torch.int64)
    novel = true >= 0
    overlap.index_put_((cluster[novel], true[novel]), torch.tensor(1), accumulate=True)
    rows, columns = linear_sum_assignment(overlap.numpy(), maximize=True)
    names[num_known + torch.as_tensor(rows)] = num_known + torch.as_tensor(columns)
    return names


def _logits(classifier: Classifier, features: Tensor, context: Context) -> Tensor:
    """Compute a classifier's logits on the context's device and return them on the CPU."""
    device = context.device
    return predict_logits(to_device(classifier, device), features.to(device)).cpu()


def _update_metrics(held: _HeldOutOutputs, predicted: Tensor, num_known: int) -> dict[str, float]:
    """Return the mean class accuracy after the update (all, known, new classes), and forgetting."""
    correct = (predicted == held.labels).float()
    classes = held.labels.unique()
    if not len(classes):
        return {}
    per_class = torch.stack([correct[held.labels == c].mean() for c in classes])
    before = (held.logits.argmax(1) == held.labels).float()
    known, novel = classes < num_known, classes >= num_known
    before_known = torch.stack([before[held.labels == c].mean() for c in classes[known]]).mean()
    return {
        "update/accuracy": float(per_class.mean()),
        "update/accuracy/known": float(per_class[known].mean()),
        "update/accuracy/novel": float(per_class[novel].mean()),
        "update/forgetting": float(before_known - per_class[known].mean()),
        "update/accuracy_before": float(before_known * known.float().mean()),
    }


def _arrays(
    settings: Evaluate,
    classifier: Classifier,
    scorer: Scorer,
    held: _HeldOutOutputs,
    predicted: Tensor,
    num_classes: int,
) -> dict[str, Tensor]:
    """Return the arrays that figures are drawn from, and the answer to each held-out image."""
    bands = size_bands(classifier.class_counts, settings.many_above, settings.few_below)
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
        "class_accuracy": confusion.diagonal() / confusion.sum(1),  # NaN without a sample
        "class_counts": classifier.class_counts,
        "confidence_known": held.confidence[known],
        "confidence_novel": held.confidence[~known],
        "threshold": torch.tensor(scorer.threshold),
        "probability": logits.softmax(1).amax(1),
        "correct": logits.argmax(1) == labels,
        "labels": held.labels,
        "predicted": held.logits.argmax(1),
        "updated": predicted,
        "confidence": held.confidence,
        "band": torch.stack([bands[name] for name in ("many", "medium", "few")]).int().argmax(0),
    }
