"""Classes that arrive in steps: closed-form updates beside distillation and all at once.

The photos and frozen features of ``benchmarks.photos`` (20 classes of CIFAR-100 with a long tail):
10 classes first, then 5 steps of 2 new ones, in a seeded order. All sides get the same true labels
and may use all earlier images again; distillation starts from the ridge classifier of the first 10
classes. Balanced accuracy on the test images of the classes so far, in percent: after the last
step, and averaged over base and steps; mean over seeds with its 95 % t-interval.

The rows have no goal but an equality: the ``largest gap`` of a closed form, between a logit after
the last step and that of the same method on all classes at once, is float32 rounding, below 1e-3.
(Tests compare in float64, to 1e-8.)

    python -m benchmarks.incremental --data cifar100 [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.photos import CLASSES, FROZEN, interval, make_photos
from benchmarks.timm_alone import weights
from trainables.artifacts import (
    Backbone,
    Classifier,
    Features,
    ImageView,
    LabelledView,
    PseudoLabels,
    StreamFeatures,
)
from trainables.context import Context
from trainables.data.views import build_views
from trainables.experiment import Update, load_experiment
from trainables.features.predict import predict_logits
from trainables.methods.rebalancers import Rebalancer
from trainables.pipeline import run
from trainables.stages import update

FIRST, STEP = 10, 2
ROUNDING = 1e-3
CLOSED_FORMS = ("ridge", "lda")
UPDATERS = (*CLOSED_FORMS, "distill")


class Study(NamedTuple):
    """Frozen features with labels in the order of arrival, for training and test."""

    backbone: Backbone
    start: Classifier
    features: Tensor
    labels: Tensor
    tested: Tensor
    truth: Tensor


def embed(photos: Path, seed: int) -> Study:
    """Return the features of all photos, with their classes in a seeded order of arrival."""
    method = f"pretrain.method={{pretrained: {{checkpoint: {weights()}}}}}"
    recipe = load_experiment(None, [*FROZEN, method, f"data.source=folder:{photos}"])
    with tempfile.TemporaryDirectory() as cache:
        views = build_views(recipe.data, cache=Path(cache))
        found = run(recipe, Context(seed=seed), views=views)
    arrival = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed))
    return Study(
        found["backbone"],
        found["classifier"],
        found["features"].known_train,
        arrival[torch.from_numpy(views.known_train.labels)],
        found["held_out_features"].first,
        arrival[torch.from_numpy(views.held_out_known.labels)],
    )


def fit(study: Study, method: str, num_classes: int) -> Classifier:
    """Return a closed-form classifier of the first classes, from all of their images at once."""
    known = study.labels < num_classes
    labels = study.labels[known]
    empty = study.start._replace(
        class_counts=torch.bincount(labels, minlength=num_classes),
        logit_offset=torch.zeros(num_classes),
    )
    given = {"classifier": empty, "features": study.features[known], "labels": labels}
    found: Classifier = Rebalancer.parse(method).call_with(given)
    return found


def learn(study: Study, method: str, classifier: Classifier, num_known: int) -> Classifier:
    """Return the classifier after one step: the next two classes come with true labels."""
    known = study.labels < num_known
    new = (study.labels >= num_known) & (study.labels < num_known + STEP)
    nothing = np.empty((0, 8, 8, 3), dtype=np.uint8)
    places = np.arange(int(known.sum()))
    labels = study.labels[new]
    found = update.run(
        Update.model_validate({"method": method}),
        backbone=study.backbone,
        classifier=classifier,
        features=Features(study.features[known], study.features[:0]),
        stream_features=StreamFeatures(study.features[:0], study.features[new]),
        known_train=LabelledView(nothing, places, study.labels[known].numpy(), num_known, ""),
        pool=ImageView(nothing, np.arange(len(labels)), ""),
        pseudo_labels=PseudoLabels(
            torch.arange(len(labels)), labels, torch.ones(len(labels)), STEP, {}
        ),
        context=Context(),
    )
    return found.updated_classifier


def accuracy(study: Study, classifier: Classifier) -> float:
    """Return the balanced accuracy on test images of the classes so far, in percent."""
    seen = study.truth < len(classifier.class_counts)
    answers = predict_logits(classifier, study.tested[seen]).argmax(1)
    right = (answers == study.truth[seen]).double()
    classes = study.truth[seen]
    return 100 * float(torch.stack([right[classes == c].mean() for c in classes.unique()]).mean())


def measure(study: Study, method: str) -> dict[str, float]:
    """Return what a method reaches step by step, and the CPU seconds of its updates."""
    start = method if method in CLOSED_FORMS else "ridge"
    classifier = fit(study, start, FIRST)
    reached, spent = [accuracy(study, classifier)], time.process_time()
    for num_known in range(FIRST, CLASSES, STEP):
        classifier = learn(study, method, classifier, num_known)
        reached.append(accuracy(study, classifier))
    result = {
        "last": reached[-1],
        "average": float(np.mean(reached)),
        "cpu_seconds": time.process_time() - spent,
    }
    if method in CLOSED_FORMS:
        whole = predict_logits(fit(study, method, CLASSES), study.tested)
        gap = (predict_logits(classifier, study.tested) - whole).abs().max()
        result["largest gap"] = float(gap)
    return result


def joint(study: Study) -> dict[str, float]:
    """Return what scikit-learn's balanced LogisticRegression reaches on all classes at once."""
    from sklearn.linear_model import LogisticRegressionCV

    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7), cv=3, class_weight="balanced", scoring="balanced_accuracy",
        max_iter=300,
    ).fit(study.features.numpy(), study.labels.numpy())  # fmt: skip
    right = model.predict(study.tested.numpy()) == study.truth.numpy()
    return {"last": 100 * float(right.mean())}  # as many test images of each class


def main() -> int:
    """Measure all methods on all seeds, print a row for each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-100: train and test, a folder per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.data is None:
        sys.stderr.write("incremental: not measured; give --data\n")
        return 0
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            make_photos(options.data, seed, Path(folder))
            study = embed(Path(folder), seed)
        for method in UPDATERS:
            found.setdefault(method, []).append(measure(study, method))
        found.setdefault("all at once, LogisticRegression", []).append(joint(study))
    for method, results in found.items():
        row: dict[str, Any] = {"benchmark": f"incremental/{method}", "seeds": options.seeds}
        row |= {name: interval([result[name] for result in results]) for name in results[0]}
        print(json.dumps(row))
    gaps = [result["largest gap"] for method in CLOSED_FORMS for result in found[method]]
    return 0 if max(gaps) < ROUNDING else 1


if __name__ == "__main__":
    sys.exit(main())
