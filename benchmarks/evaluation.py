"""All metrics of a run, and nearest neighbors of several recipes, compared with scikit-learn.

Goals:

- The metrics of 10,000 samples (30 confidences with AUROC, both average precisions and both FPR95;
  accuracy by band, calibration, confusion) take less than 0.25 s, no longer than scikit-learn, and
  have the same values.
- The k-nearest-neighbor confidences of recipes that differ in k need one search over their common
  features, half the time of one scikit-learn search per recipe, and have the same values.

    python -m benchmarks.evaluation [--repeats 5]

Times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    roc_auc_score,
    roc_curve,
)
from sklearn.neighbors import NearestNeighbors

from benchmarks import print_row
from trainables.features.neighbors import searches
from trainables.methods.metrics.accuracy import Accuracy
from trainables.methods.metrics.calibration import Calibration
from trainables.methods.metrics.open_set import OpenSet
from trainables.methods.scores.knn import KNN

KNOWN, UNKNOWN, CLASSES, SCORES, BINS = 6000, 4000, 100, 30, 15
BANK, QUERIES, WIDTH, NEIGHBORS = 12_406, 4000, 64, (1, 5, 20, 50, 100)
MOST_SECONDS = 0.25
Values = dict[str, float]


def samples(seed: int) -> dict[str, torch.Tensor]:
    """Return logits and labels of known samples, and confidences of known and unknown samples."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (KNOWN,), generator=draw)
    logits = torch.randn(KNOWN, CLASSES, generator=draw)
    logits[torch.arange(KNOWN), labels] += 2.0
    known = torch.arange(KNOWN + UNKNOWN) < KNOWN
    sharpness = torch.linspace(0.2, 2.0, SCORES)[:, None]
    confidences = torch.randn(SCORES, KNOWN + UNKNOWN, generator=draw) + sharpness * known
    # rounded, because real confidences have ties, which both sides must count correctly
    confidence = (confidences * 1000).round() / 1000
    return {"logits": logits, "labels": labels, "known": known, "confidence": confidence}


def ours(given: dict[str, torch.Tensor]) -> tuple[Values, Any]:
    """Compute the metrics by this project."""
    values: Values = {}
    for number, confidence in enumerate(given["confidence"]):
        found = OpenSet()(confidence=confidence, known=given["known"])
        values |= {f"{number}/{name}": value for name, value in found.items()}
    counts = torch.bincount(given["labels"], minlength=CLASSES)
    logits, labels = given["logits"], given["labels"]
    values |= Accuracy()(logits=logits, labels=labels, class_counts=counts)
    values |= Calibration(bins=BINS)(logits=logits, labels=labels)
    flat = given["labels"] * CLASSES + given["logits"].argmax(1)
    return values, torch.bincount(flat, minlength=CLASSES**2).reshape(CLASSES, CLASSES).numpy()


def theirs(given: dict[str, torch.Tensor]) -> tuple[Values, Any]:
    """Compute the metrics by scikit-learn; it lacks calibration errors, which use their formula."""
    known, values = given["known"].numpy(), {}
    for number, confidence in enumerate(given["confidence"].double().numpy()):
        unknown_found, known_kept = _curve(~known, -confidence), _curve(known, confidence)
        values[f"{number}/novelty/auroc"] = roc_auc_score(known, confidence)
        values[f"{number}/novelty/aupr_known"] = average_precision_score(known, confidence)
        values[f"{number}/novelty/aupr_unknown"] = average_precision_score(~known, -confidence)
        for name, (wrong, right, _) in (
            ("fpr_known@95tpr_unknown", unknown_found),
            ("fpr_unknown@95tpr_known", known_kept),
        ):
            values[f"{number}/novelty/{name}"] = wrong[np.argmax(right >= 0.95 - 1e-9)]
    labels = given["labels"].numpy()
    probability = given["logits"].double().softmax(1).numpy()
    predicted, top = probability.argmax(1), probability.max(1)
    values["accuracy/balanced"] = balanced_accuracy_score(labels, predicted)
    values["calibration/nll"] = log_loss(labels, probability, labels=list(range(CLASSES)))
    truth = np.eye(CLASSES)[labels]
    values["calibration/brier"] = ((probability - truth) ** 2).sum(1).mean()
    values["calibration/ece"] = _ece(top, predicted == labels)
    per_class = [_ece(probability[:, c], truth[:, c]) for c in range(CLASSES)]
    values["calibration/classwise_ece"] = float(np.mean(per_class))
    return values, confusion_matrix(labels, predicted, labels=list(range(CLASSES)))


def _curve(positive: Any, score: Any) -> Any:
    """Return the ROC curve with all points, because a dropped point may be the one at 95 %."""
    return roc_curve(positive, score, drop_intermediate=False)


def _ece(probability: Any, happened: Any) -> float:
    """Return the expected calibration error over equal-width bins."""
    index = np.digitize(probability, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    bins = [index == b for b in range(BINS)]
    gaps = [abs(happened[b].mean() - probability[b].mean()) * b.mean() for b in bins if b.any()]
    return float(sum(gaps))


def recipes_ours(bank: torch.Tensor, queries: torch.Tensor) -> list[torch.Tensor]:
    """Return the confidences of recipes that differ in k, by this project's score."""
    found = []
    for k in NEIGHBORS:
        score = KNN(k=k)
        found.append(score(features=queries, state=score.fit(features=bank)))
    return found


def recipes_theirs(bank: torch.Tensor, queries: torch.Tensor) -> list[torch.Tensor]:
    """Return the confidences of the same recipes by one scikit-learn search each."""
    units = torch.nn.functional.normalize(bank, dim=1).double().numpy()
    rows = torch.nn.functional.normalize(queries, dim=1).double().numpy()
    found = []
    for k in NEIGHBORS:
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(units)
        found.append(-torch.from_numpy(search.kneighbors(rows)[0][:, -1]).float())
    return found


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the CPU seconds and the result of a call."""
    start = time.process_time()
    result = run(*arguments)
    return time.process_time() - start, result


def compare_metrics(repeats: int) -> bool:
    """Time all metrics of a run on both sides and compare their values."""
    times: dict[str, list[float]] = {"ours": [], "scikit-learn": [], "the limit": [MOST_SECONDS]}
    equal = True
    for repeat in range(repeats):
        given = samples(repeat)
        seconds, (mine, table) = timed(ours, given)
        times["ours"].append(seconds)
        seconds, (reference, other) = timed(theirs, given)
        times["scikit-learn"].append(seconds)
        equal &= bool((table == other).all())
        equal &= all(abs(mine[name] - value) < 1e-6 for name, value in reference.items())
    passed = print_row("evaluation/metrics", "the limit", times, correct=equal)
    return passed & print_row("evaluation/metrics", "scikit-learn", times, correct=equal)


def compare_neighbors(repeats: int) -> bool:
    """Time the kNN confidences of several recipes over one feature set on both sides."""
    times: dict[str, list[float]] = {"ours": [], "a search each": []}
    equal, searched = True, 0
    for repeat in range(repeats):
        draw = torch.Generator().manual_seed(repeat)
        bank = torch.randn(BANK, WIDTH, generator=draw)
        queries = torch.randn(QUERIES, WIDTH, generator=draw)
        before = searches()
        seconds, mine = timed(recipes_ours, bank, queries)
        times["ours"].append(seconds)
        searched += searches() - before
        seconds, reference = timed(recipes_theirs, bank, queries)
        times["a search each"].append(seconds)
        equal &= all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, reference, strict=True))
    return print_row(
        "evaluation/neighbors",
        "a search each",
        times,
        correct=equal and searched == repeats,
        recipes=len(NEIGHBORS),
        searches=searched,
    )


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    passed = compare_metrics(options.repeats)
    return 0 if passed & compare_neighbors(options.repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
