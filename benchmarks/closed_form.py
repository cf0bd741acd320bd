"""Closed-form classifiers beside scikit-learn's, and their memory with a thousand classes.

Goals: on 2,300 images of 20 long-tailed classes with 1,280 features, `ridge` and `lda`, which
choose their regularizer by exact leave-one-out, take no more CPU time than LogisticRegression whose
C is chosen by cross-validation; fits to 1,000 classes of 100 images, with their left-out answers,
take at most 4 GB in all. Balanced accuracies are shown beside; on drawn features they tell little.

    python -m benchmarks.closed_form [--features 1280] [--classes 1000] [--per-class 100]

All sides use one thread and the same drawn features; RidgeClassifierCV and LogisticRegression are
scikit-learn's, with balanced class weights. The memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from torch import Tensor

from benchmarks import print_row
from benchmarks.feature_search import Case
from trainables.artifacts import Classifier
from trainables.closed_form.statistics import samples
from trainables.features.predict import predict_logits
from trainables.features.rebalancer_search import merit
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer

SIZES = tuple(round(500 * 0.01 ** (k / 19)) for k in range(20))  # 500 down to 5 images
ALPHAS = tuple(10.0**k for k in range(-2, 6))


class Drawn(NamedTuple):
    """Long-tailed training images and balanced test images."""

    train: Case
    features: Tensor
    labels: Tensor


def draw(counts: tuple[int, ...], width: int, per_class: int = 100) -> Drawn:
    """Return features around a direction per class, correlated as those of a network are."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator) * torch.linspace(2, 0.1, width)
    centers = torch.randn(len(counts), width, generator=generator) @ mixing.T / 4

    def images(numbers: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.repeat_interleave(torch.arange(len(counts)), numbers)
        noise = torch.randn(len(labels), width, generator=generator)
        return (centers[labels] + noise @ mixing.T).relu() / width**0.5, labels

    sizes, zeros = torch.tensor(counts), torch.zeros(len(counts))
    train = samples(*images(sizes))
    classifier = Classifier(Head.parse("linear"), width, {}, zeros, sizes, zeros[:1])
    return Drawn(Case(train, classifier), *images(torch.full((len(counts),), per_class)))


def ours(name: str, drawn: Drawn) -> Tensor:
    """Fit one of our classifiers and return its logits of the test images."""
    classifier = Rebalancer.parse(name).call_with(drawn.train.available)
    return predict_logits(classifier, drawn.features)


def peer(model: Any, drawn: Drawn) -> Tensor:
    """Fit one of scikit-learn's classifiers and return its decisions on the test images."""
    data = drawn.train.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that did not converge
        model.fit(data.features.numpy(), data.labels.numpy())
    return torch.from_numpy(model.decision_function(drawn.features.numpy()))


def measured(side: Callable[[], Tensor], drawn: Drawn) -> tuple[float, float]:
    """Return CPU seconds and balanced accuracy."""
    started = time.process_time()
    logits = side()
    return time.process_time() - started, merit(logits, drawn.labels)[0]


def many_classes(classes: int, per_class: int, width: int) -> int:
    """Fit and answer out of fold, and print the peak of this process in MB."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(per_class)
    features = torch.randn(len(labels), width, generator=generator)
    zeros = torch.zeros(classes)
    counts = torch.full((classes,), per_class)
    old = Classifier(Head.parse("linear"), width, {}, zeros, counts, zeros[:1])
    for method in ({"ridge": {"regularizer": 0.1}}, {"lda": {"shrinkage": 0.2}}):
        Rebalancer.parse(method).call_with(
            {"classifier": old, "features": features, "labels": labels, "class_counts": counts}
        )
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    return 0


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_only:
        return many_classes(options.classes, options.per_class, options.features)
    drawn = draw(SIZES, options.features)
    peers = {
        "RidgeClassifierCV": RidgeClassifierCV(alphas=ALPHAS, class_weight="balanced"),
        "LogisticRegressionCV": LogisticRegressionCV(
            Cs=(0.01, 0.1, 1, 10), cv=3, class_weight="balanced", max_iter=200
        ),
    }
    found = {n: measured(lambda m=m: peer(m, drawn), drawn) for n, m in peers.items()}
    good = True
    for name in ("ridge", "lda"):
        mine = measured(lambda name=name: ours(name, drawn), drawn)
        for other, (seconds, accuracy) in found.items():
            more = {"accuracies": {"ours": round(mine[1], 4), other: round(accuracy, 4)}}
            times = {"ours": [mine[0]], other: [seconds]}
            good &= print_row(f"closed_form/{name}", other, times, **more)
    command = [sys.executable, "-m", "benchmarks.closed_form", "--memory-only"]
    sizes = [f"--classes={options.classes}", f"--per-class={options.per_class}"]
    done = subprocess.run(
        [*command, *sizes, f"--features={options.features}"],
        check=True,
        capture_output=True,
        text=True,
    )
    peak = {"ours": [float(done.stdout)], "4 GB": [4096.0]}
    good &= print_row(f"closed_form/memory of {options.classes} classes", "4 GB", peak)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
